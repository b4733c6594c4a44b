"""Which of the shipped training configs is made for how many songs, and which for the small bundles."""

FEW_SONGS = 100
"""Up to here a small adapter and a few thousand steps are enough; more would learn the songs by heart."""
OF_BUNDLES = {"tiny": "tiny_controlnet", "tiny15": "tiny_context"}
"""By family: networks of a few blocks, on which presets do not fit and seconds of training are enough to try it."""


def preset_for(songs: int) -> str:
    """The config for so many songs, by its bare name."""
    return "singer" if songs <= FEW_SONGS else "studio"


def preset_on(songs: int, family: str | None) -> str:
    """The config to train so many songs with on a base model of a family (`BaseOrigin.family`)."""
    return OF_BUNDLES.get(family or "", preset_for(songs))


def described_preset(songs: int, family: str | None) -> str:
    """Both in words."""
    line = f"the preset for {songs} songs is {preset_for(songs)}"
    return f"{line}; the bundle {family} takes {OF_BUNDLES[family]}" if family in OF_BUNDLES else line
