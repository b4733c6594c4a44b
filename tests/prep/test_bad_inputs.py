"""A folder as users have them: every kind of bad file beside good and merely odd ones, in one build."""

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from common.command import run
from prep.cli import app
from prep.sources.scan import safe_key
from shards.reader import read_manifest

RATE_HZ = 44_100
Make = Callable[["Folder"], object]


class Folder:
    """A folder of songs to be, and the music to fill it with: waves [N, 2] of 1.2 s, others for each song."""

    def __init__(self, path: Path, music) -> None:
        self.path, self._music = path, music(1.2, seed=3)
        path.mkdir()

    def make(self, recipes: Mapping[str, Make], *, turn: int) -> None:
        for number, (name, make) in enumerate(recipes.items(), turn):
            parts = (self._music.vocal, self._music.inst, self._music.mix)
            self.vocal, self.inst, self.mix = (np.roll(wave, 10 * number, axis=1).T for wave in parts)
            make(self)
            if turn == 0 and name not in FULL and not (self.path / f"{name}_vocal.wav").exists():
                self.audio(f"{name}_vocal.wav", self.vocal)  # a pair is quicker than a song to separate

    def audio(
        self,
        name: str,
        wave: np.ndarray | None = None,
        rate_hz: int = RATE_HZ,
        *,
        kind: str | None = None,
        subtype: str | None = None,
    ) -> Path:
        """Write a wave, by default the mix, in the format of its name."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        kind = kind or {".ogg": "OGG"}.get(path.suffix.lower(), path.suffix[1:].upper())
        with path.open("wb") as file:  # libsndfile cannot open every name
            soundfile.write(file, self.mix if wave is None else wave, rate_hz, subtype=subtype, format=kind)
        return path

    def pair(self, name: str, *, vocal: np.ndarray | None = None, mix: np.ndarray | None = None) -> None:
        self.audio(f"{name}_vocal.wav", self.vocal if vocal is None else vocal, subtype="FLOAT")
        self.audio(f"{name}_mix.wav", self.mix if mix is None else mix, subtype="FLOAT")

    def file(self, name: str, content: bytes) -> None:
        (self.path / name).write_bytes(content)

    def cut(self, name: str, share: float = 0.5, *, subtype: str | None = None) -> None:
        path = self.audio(name, subtype=subtype)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    def ffmpeg(self, name: str, *options: str) -> Path:
        wav = self.audio("source.wav")
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", wav, *options, self.path / name]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        wav.unlink()
        return self.path / name

    def patched(self, name: str, offset: int, layout: str, value: int) -> None:
        """A WAV file with one number of its header changed."""
        path = self.audio(name)
        content = bytearray(path.read_bytes())
        struct.pack_into(layout, content, offset, value)
        path.write_bytes(content)

    def text(self, name: str, content: bytes) -> None:
        """A good song whose prompt or lyrics are `content`."""
        self.pair(name.rpartition("_")[0])
        self.file(name, content)


def with_value(value: float) -> Make:
    def make(folder: Folder) -> None:
        wave = folder.mix.copy()
        wave[-1, 1] = value
        folder.audio(f"value {value}.wav", wave, subtype="FLOAT")

    return make


def later(wave: np.ndarray, samples: int) -> np.ndarray:
    return np.concatenate([np.zeros((samples, 2)), wave[:-samples]])


def shifted(folder: Folder, name: str, *, stem: int = 1, mix: int = 1) -> None:
    folder.audio(f"{name}_inst.wav", later(folder.inst, stem))
    folder.audio(f"{name}_mix.wav", later(folder.mix, mix))


def cut_m4a(folder: Folder) -> None:
    path = folder.ffmpeg("cut m4a.m4a", "-c:a", "aac", "-movflags", "+faststart")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_index(folder: Folder) -> None:
    path = folder.ffmpeg("no index.m4a", "-c:a", "aac")
    path.write_bytes(path.read_bytes()[:-800])


def with_socket(folder: Folder) -> None:
    with contextlib.chdir(folder.path), socket.socket(socket.AF_UNIX) as listener:  # a long path is refused
        listener.bind("socket.wav")


def nothing_sung(folder: Folder) -> None:
    for part in ("inst", "mix"):
        folder.audio(f"nothing sung_{part}.wav")


def two_silent_stems(folder: Folder) -> None:
    for part in ("vocal", "inst"):
        folder.audio(f"two silent_{part}.wav", np.zeros_like(folder.mix))


def brief_sound(folder: Folder) -> None:
    folder.audio("brief sound.wav", np.concatenate([folder.mix[:8000], np.zeros((3 * RATE_HZ, 2))]))


def twin(folder: Folder) -> None:
    (folder.path / "twin.flac").write_bytes((folder.path / "plain song.wav").read_bytes())


def noise(count: int) -> bytes:
    return np.random.default_rng(0).bytes(count)


BAD: dict[str, tuple[str, Make]] = {
    "zero bytes": ("unreadable", lambda f: f.file("zero bytes.wav", b"")),
    "zero bytes mp3": ("unreadable", lambda f: f.file("zero bytes mp3.mp3", b"")),
    "no samples": ("unreadable", lambda f: f.audio("no samples.wav", np.zeros((0, 2)))),
    "cut wav": ("unreadable", lambda f: f.cut("cut wav.wav")),
    "cut 24 bit wav": ("unreadable", lambda f: f.cut("cut 24 bit wav.wav", 0.9, subtype="PCM_24")),
    "cut in header": ("unreadable", lambda f: f.file("cut in header.wav", b"RIFF\x24\x00\x00\x00WAVEfm")),
    "cut flac": ("unreadable", lambda f: f.cut("cut flac.flac")),
    "cut flac late": ("unreadable", lambda f: f.cut("cut flac late.flac", 0.9)),
    "cut ogg": ("unreadable", lambda f: f.cut("cut ogg.ogg")),
    "cut ogg late": ("unreadable", lambda f: f.cut("cut ogg late.ogg", 0.97)),
    "cut mp3": ("unreadable", lambda f: f.cut("cut mp3.mp3")),
    "cut aiff": ("unreadable", lambda f: f.cut("cut aiff.aiff")),
    "cut au": ("unreadable", lambda f: f.cut("cut au.au")),
    "cut caf": ("unreadable", lambda f: f.cut("cut caf.caf")),
    "cut w64": ("unreadable", lambda f: f.cut("cut w64.w64")),
    "cut rf64": ("unreadable", lambda f: f.cut("cut rf64.rf64")),
    "cut m4a": ("unreadable", cut_m4a),
    "no index": ("unreadable", no_index),
    "value nan": ("unreadable", with_value(float("nan"))),
    "value inf": ("unreadable", with_value(float("inf"))),
    "value -inf": ("unreadable", with_value(float("-inf"))),
    "nan vocal": ("unreadable", lambda f: f.pair("nan vocal", vocal=f.vocal * np.nan)),
    "text": ("unreadable", lambda f: f.file("text.wav", b"la la la")),
    "text mp3": ("unreadable", lambda f: f.file("text mp3.mp3", b"la la la\n" * 1000)),
    "page": ("unreadable", lambda f: f.file("page.m4a", b"<!doctype html><title>404</title>")),
    "json": ("unreadable", lambda f: f.file("json.flac", b'{"error": "not found"}')),
    "picture": ("unreadable", lambda f: f.file("picture.wav", b"\x89PNG\r\n\x1a\n" + noise(500))),
    "archive": ("unreadable", lambda f: f.file("archive.ogg", b"PK\x03\x04" + noise(500))),
    "noise": ("unreadable", lambda f: f.file("noise.wav", noise(5000))),
    "zeros": ("unreadable", lambda f: f.file("zeros.mp3", bytes(5000))),
    "no channels": ("unreadable", lambda f: f.patched("no channels.wav", 22, "<H", 0)),
    "odd bits": ("unreadable", lambda f: f.patched("odd bits.wav", 34, "<H", 77)),
    "odd codec": ("unreadable", lambda f: f.patched("odd codec.wav", 20, "<H", 0x7777)),
    "giant rate": ("unreadable", lambda f: f.patched("giant rate.wav", 24, "<I", 0x7FFFFFF1)),
    "film": ("unreadable", lambda f: f.ffmpeg("film.mp4", "-f", "lavfi", "-i", "color=s=16x16:d=0.1", "-map", "1")),
    "broken link": ("unreadable", lambda f: (f.path / "broken link.wav").symlink_to("nowhere.wav")),
    "own link": ("unreadable", lambda f: (f.path / "own link.wav").symlink_to("own link.wav")),
    "folder": ("unreadable", lambda f: (f.path / "folder.wav").mkdir()),
    "folder stem": ("unreadable", lambda f: [f.audio("folder stem.wav"), (f.path / "folder stem_vocal.wav").mkdir()]),
    "socket": ("unreadable", with_socket),
    "pipe": ("unreadable", lambda f: os.mkfifo(f.path / "pipe.wav")),
    "latin prompt": ("bad_text", lambda f: f.text("latin prompt_prompt.txt", b"folk \xe9t\xe9")),
    "huge prompt": ("bad_text", lambda f: f.text("huge prompt_prompt.txt", b"folk, " * 20_000)),
    "latin lyrics": ("bad_text", lambda f: f.text("latin lyrics_lyrics.txt", b"\xffla\xfe")),
    "huge lyrics": ("bad_text", lambda f: f.text("huge lyrics_lyrics.txt", b"la " * 30_000)),
    "folder prompt": ("bad_text", lambda f: [f.pair("folder prompt"), (f.path / "folder prompt_prompt.txt").mkdir()]),
    "linked prompt": (
        "bad_text",
        lambda f: [f.pair("linked prompt"), (f.path / "linked prompt_prompt.txt").symlink_to("no")],
    ),
    "lone vocal": ("orphan_stem", lambda f: f.audio("lone vocal_vocal.wav")),
    "lone inst": ("orphan_stem", lambda f: f.audio("lone inst_inst.FLAC")),
    "elsewhere/stem": ("orphan_stem", lambda f: f.audio("elsewhere/stem_vocal.wav")),
    "two mixes": ("ambiguous", lambda f: [f.audio("two mixes.wav"), f.audio("two mixes_mix.wav")]),
    "two formats": ("ambiguous", lambda f: [f.pair("two formats"), f.audio("two formats_vocal.ogg")]),
    "two cases": ("ambiguous", lambda f: [f.audio("two cases.wav"), f.audio("two cases.WAV")]),
    "both forms": ("ambiguous", lambda f: [f.pair("both forms"), f.audio("both forms.flac")]),
    "short stem": ("misaligned", lambda f: f.pair("short stem", vocal=f.vocal[:-23_000])),
    "late stem": ("misaligned", lambda f: shifted(f, "late stem", stem=3000)),
    "early stem": ("misaligned", lambda f: shifted(f, "early stem", mix=5000)),
    "other vocal": ("leak", lambda f: f.pair("other vocal", vocal=f.vocal[::-1])),
    "one channel": ("leak", lambda f: f.pair("one channel", vocal=f.vocal * [0, 1])),
    "mix as inst": ("leak", lambda f: [f.audio("mix as inst_vocal.wav", f.vocal), f.audio("mix as inst_inst.wav")]),
    "no sum": ("no_sum", lambda f: [f.pair("no sum"), f.audio("no sum_inst.wav", f.inst[::-1])]),
    "exchanged": ("swapped", lambda f: f.pair("exchanged", vocal=f.inst)),
    "silence": ("silent", lambda f: f.audio("silence.wav", np.zeros_like(f.mix))),
    "faint": ("silent", lambda f: f.audio("faint.wav", f.mix * 1e-4, subtype="FLOAT")),
    "faint pair": ("silent", lambda f: f.pair("faint pair", vocal=f.vocal * 1e-4, mix=f.mix * 1e-4)),
    "two silent": ("silent", two_silent_stems),
    "constant": ("silent", lambda f: f.audio("constant.wav", np.full((3 * RATE_HZ, 2), 0.5))),
    "one sample": ("too_short", lambda f: f.audio("one sample.wav", f.mix[100:101])),
    "under a block": ("too_short", lambda f: f.audio("under a block.wav", f.mix[: RATE_HZ // 3])),
    "under a second": ("too_short", lambda f: f.audio("under a second.flac", f.mix[: RATE_HZ * 9 // 10])),
    "brief sound": ("too_short", brief_sound),
    "silent vocal": ("no_vocal", lambda f: f.pair("silent vocal", vocal=f.vocal * 0)),
    "faint vocal": ("no_vocal", lambda f: f.pair("faint vocal", vocal=f.vocal * 1e-3, mix=f.inst + f.vocal * 1e-3)),
    "nothing sung": ("no_vocal", nothing_sung),
    "twin": ("duplicate", twin),
}
"""By name: the reason that its line in rejected.jsonl must give, and how it is made."""


def streamed(folder: Folder, name: str) -> None:
    """As ffmpeg writes into a pipe: the header holds no length."""
    wav, kind = folder.audio("source.wav"), name.rpartition(".")[2]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", wav, "-f", kind, "pipe:1"]
    folder.file(name, subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout)
    wav.unlink()


def resampled(folder: Folder, rate_hz: int) -> np.ndarray:
    """The mix, played at another rate until it is about 1.2 s long again."""
    length = round(len(folder.mix) * rate_hz / RATE_HZ)
    return np.resize(folder.mix, (length, 2))


LONG_NAME = "é" * 125 + "x"
GOOD: dict[str, Make] = {
    "plain pair": lambda f: f.pair("plain pair"),
    "plain song": lambda f: f.audio("plain song.wav"),
    "8 kHz": lambda f: f.audio("8 kHz.wav", resampled(f, 8000), 8000),
    "192 kHz": lambda f: f.audio("192 kHz.flac", resampled(f, 192_000), 192_000),
    "44101 Hz": lambda f: f.audio("44101 Hz.wav", f.mix, 44_101),
    "mono": lambda f: f.audio("mono.wav", f.mix[:, 0]),
    "6 channels": lambda f: f.audio("6 channels.wav", np.tile(f.mix, 3), kind="WAVEX"),
    "9 channels": lambda f: f.audio("9 channels.wav", np.tile(f.mix[:, :1], 9)),
    "8 bit": lambda f: f.audio("8 bit.wav", subtype="PCM_U8"),
    "24 bit": lambda f: f.audio("24 bit.wav", subtype="PCM_24"),
    "32 bit": lambda f: f.audio("32 bit.wav", subtype="PCM_32"),
    "float": lambda f: f.audio("float.wav", f.mix * 3, subtype="FLOAT"),
    "double": lambda f: f.audio("double.wav", subtype="DOUBLE"),
    "mu-law": lambda f: f.audio("mu-law.wav", subtype="ULAW"),
    "clipped": lambda f: f.audio("clipped.wav", f.mix * 20),
    "offset": lambda f: f.audio("offset.wav", f.mix * 0.5 + 0.3),
    "inverted stem": lambda f: f.pair("inverted stem", vocal=-f.vocal),
    "streamed": lambda f: streamed(f, "streamed.wav"),
    "streamed flac": lambda f: streamed(f, "streamed flac.flac"),
    "ogg inside": lambda f: f.audio("ogg inside.mp3", kind="OGG"),
    "flac inside": lambda f: f.audio("flac inside.wav", kind="FLAC"),
    "aac": lambda f: f.ffmpeg("aac.m4a", "-c:a", "aac"),
    "upper case": lambda f: f.audio("upper case.WAV"),
    "two.dots.and more": lambda f: f.audio("two.dots.and more.wav"),
    "like\u2215slash": lambda f: f.audio("like\u2215slash.wav"),
    "--leading": lambda f: f.audio("--leading.wav"),
    "new\nline": lambda f: f.audio("new\nline.wav"),
    "夏の歌": lambda f: f.text("夏の歌_prompt.txt", "夏, 歌".encode()),
    LONG_NAME: lambda f: f.audio(f"{LONG_NAME}.wav"),
    "side/a": lambda f: f.audio("side/a.wav"),
    "side__a": lambda f: f.audio("side__a.wav"),
    "a b": lambda f: f.audio("a b.wav"),
    "a.b": lambda f: f.audio("a.b.wav"),
    "wide prompt": lambda f: f.text("wide prompt_prompt.txt", "folk, 夏".encode("utf-16")),
    "old prompt": lambda f: f.text("old prompt_prompt.txt", "フォーク、夏".encode("cp932")),
    "blank prompt": lambda f: f.text("blank prompt_prompt.txt", b" \n"),
}
"""By name: valid songs, most of them odd."""
FULL = {"plain song", "8 kHz", "192 kHz", LONG_NAME}


def rows(folder: Path) -> dict[str, tuple[str, str]]:
    found = [json.loads(line) for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["key"]: (row["reason"], row["detail"]) for row in found}


def test_bad_songs_are_named_and_leave_good_ones_as_they_would_be_alone(tmp_path, music, build, config, hashes, capfd):
    Folder(tmp_path / "good", music).make(GOOD, turn=0)
    mixed = Folder(tmp_path / "raw", music)
    shutil.copytree(tmp_path / "good", mixed.path, dirs_exist_ok=True)  # a float WAV holds the time of its making
    mixed.make({name: make for name, (_, make) in BAD.items()}, turn=len(GOOD))
    options = ("--checkpoint-dir", "tiny", "--targets", "inst", "--workers", "1")
    with pytest.raises(SystemExit) as stopped:
        run(app, ["build-shards", str(mixed.path), str(tmp_path / "shards"), *options])

    said = capfd.readouterr()
    assert (stopped.value.code, "Traceback" in said.err) == (0, False), said.err
    details = rows(tmp_path / "shards")
    assert {key: reason for key, (reason, _) in details.items()} == {safe_key(name): BAD[name][0] for name in BAD}
    assert f"{len(GOOD)} of {len(GOOD) + len(BAD)} songs kept, {len(BAD)} rejected" in said.out
    assert len(BAD) >= 60
    assert all(detail.endswith(".") and "\n" not in detail for _, detail in details.values())
    assert set(read_manifest(tmp_path / "shards").songs()) == {safe_key(name) for name in GOOD}
    build("alone", raw="good", config=config.model_copy(update={"targets": ("inst",)}))
    with_bad, alone = hashes(tmp_path / "shards"), hashes(tmp_path / "alone")
    assert {**with_bad, "rejected.jsonl": ""} == {**alone, "rejected.jsonl": ""}
