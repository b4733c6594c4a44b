"""The made-up songs: a small world of music whose rules a listener can hear and whose truth is known."""
