"""The choices of what of a text conditions the model; without torch, for configs and commands."""

from typing import Literal

LyricsContent = Literal["instrumental", "structure", "words"]
"""What of a song's lyrics: [instrumental] alone, structure tags such as [verse], or all."""
