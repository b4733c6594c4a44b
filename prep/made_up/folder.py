"""Folders of made-up songs, for tests, the demo and the training of the tiny bundle: `prep demo-songs`.

Song k of a folder with seed K is the song of seed K + k, whatever else is in the folder. Seeds from HELD_OUT_SEED up
are for judging only: nothing may be trained on them.
"""

from pathlib import Path
from typing import Literal

from common.audio.wave import write_audio
from common.errors import UserError
from common.files import whole_file
from common.music.notation import write_lead_sheet
from common.progress import progress
from prep.made_up.render import MadeUpSong, render_song
from prep.made_up.signal import SAMPLE_RATE_HZ
from prep.made_up.truth import SongTruth, lead_sheet_of_truth

HELD_OUT_SEED = 900_000
SHORTEST_SECONDS, LONGEST_SECONDS = 2.0, 600.0

Form = Literal["stems", "songs"]


def make_songs(
    out: Path, *, songs: int, seconds: float, seed: int, form: Form = "stems", lead_sheets: bool = False
) -> list[Path]:
    """Write `songs` songs of `seconds` each into the folder `out`; the mix of each song comes back, in order.

    `stems`: KEY_vocal.flac, KEY_inst.flac and KEY_mix.flac, whose samples sum exactly; `songs`: the mix alone as
    KEY.flac. Beside them KEY_prompt.txt, KEY_lyrics.txt and KEY_truth.json (a SongTruth), and with `lead_sheets`
    KEY_lead_sheet.txt.
    Raises UserError for numbers out of range or a folder that cannot be written.
    """
    _check(songs=songs, seconds=seconds, seed=seed)
    mixes = []
    with progress(songs, "made-up songs", "songs") as done:
        for number in range(songs):
            song = render_song(seed + number, seconds)
            mixes.append(write_song(out, song, form=form))
            if lead_sheets:
                write_true_sheet(out, song.key, song.truth)
            done.update(note=song.key)
    return mixes


def write_song(out: Path, song: MadeUpSong, *, form: Form) -> Path:
    """Write one song and what is known of it into `out`; the mix comes back."""
    for kind, text in {
        "prompt.txt": song.truth.prompt + "\n",
        "lyrics.txt": song.truth.lyrics,
        "truth.json": song.truth.model_dump_json(indent=1) + "\n",
    }.items():
        with whole_file(out / f"{song.key}_{kind}") as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
    if form == "stems":
        write_audio(out / f"{song.key}_vocal.flac", song.vocal, SAMPLE_RATE_HZ, subtype="PCM_16")
        write_audio(out / f"{song.key}_inst.flac", song.inst, SAMPLE_RATE_HZ, subtype="PCM_16")
    mix = out / (f"{song.key}_mix.flac" if form == "stems" else f"{song.key}.flac")
    write_audio(mix, song.mix, SAMPLE_RATE_HZ, subtype="PCM_16")
    return mix


def write_true_sheet(out: Path, key: str, truth: SongTruth) -> None:
    """Write a song's true lead sheet beside it, as KEY_lead_sheet.txt."""
    with whole_file(out / f"{key}_lead_sheet.txt") as partial:
        partial.write_text(write_lead_sheet(lead_sheet_of_truth(truth)), encoding="utf-8", newline="\n")


def _check(*, songs: int, seconds: float, seed: int) -> None:
    if songs < 1:
        raise UserError(f"--songs {songs}: ask for at least 1 song.")
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise UserError(
            f"--seconds {seconds:g}: a made-up song lasts {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g} s. "
            "Ask for more songs rather than longer ones."
        )
    if seed < 0:
        raise UserError(f"--seed {seed}: seeds are 0 or more.")
