"""Which of the shipped training configs is made for how many songs."""

FEW_SONGS = 100
"""Up to here a small adapter and a few thousand steps are enough; more would learn the songs by heart."""


def preset_for(songs: int) -> str:
    """The config, by its bare name."""
    return "singer" if songs <= FEW_SONGS else "studio"
