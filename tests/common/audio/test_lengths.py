"""Files whose headers give no length, or a wrong one, and files of which several were joined: each is read whole.

The table states the true length of each, in samples. Two seconds of 44.1 kHz are 88 200; in MP3 without a Xing header
the encoder's delay and padding count too: 78 frames of 1152.
"""

import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.audio.decode import audio_seconds, audio_stream
from common.audio.formats.mp3 import frame_of
from common.audio.wave import read_audio
from common.errors import UserError

Encoded = Callable[..., bytes]
Make = Callable[[Encoded], bytes]
SHARED_SONGS = Path(__file__).resolve().parents[4] / "shared" / "audio" / "songs"
TWO, FRAMES = 88_200, 78 * 1152
VBR, BARE = ("-q:a", "2"), ("-q:a", "2", "-write_xing", "0", "-id3v2_version", "0")
CBR_BARE = ("-b:a", "128k", "-write_xing", "0", "-id3v2_version", "0")
AS_ID3 = ("-id3v2_version", "0")


def id3v2(size: int) -> bytes:
    """A tag whose picture holds what looks like frames."""
    return (
        b"ID3\x04\x00\x00"
        + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
        + (b"\xff\xfb\x90\x64" * size)[:size]
    )


ID3V1 = b"TAG" + b"la " * 41 + b"\x00\x00"
APE = b"APETAGEX" + struct.pack("<IIII8x", 2000, 32 + 40_000, 1, 0xA0000000) + bytes(range(1, 251)) * 160


def with_count(mp3: bytes, frames: int | None, *, size: int | None = None) -> bytes:
    """Another number of frames in the Xing header of an MP3 file; None leaves it out."""
    at = max(mp3.find(b"Xing"), mp3.find(b"Info"))
    (flags,) = struct.unpack_from(">I", mp3, at + 4)
    content = bytearray(mp3)
    if frames is None:
        struct.pack_into(">I", content, at + 4, flags & ~1)
        content[at + 8 : at + 12] = b""
        content[at + 112 : at + 112] = bytes(4)
    else:
        struct.pack_into(">I", content, at + 8, frames)
    if size is not None:
        struct.pack_into(">I", content, at + 12, size)
    return bytes(content)


def count_of(mp3: bytes) -> int:
    return struct.unpack_from(">I", mp3, max(mp3.find(b"Xing"), mp3.find(b"Info")) + 8)[0]


def vbri(mp3: bytes, frames: int) -> bytes:
    """A VBRI header of 417 bytes before an MP3 file without header."""
    frame = b"\xff\xfb\x90\x64" + bytes(32) + b"VBRI" + struct.pack(">HHHII", 1, 0, 75, len(mp3) + 417, frames)
    return frame.ljust(417, b"\x00") + mp3


def wav(encoded: Encoded, *, said: int | None, riff: int | None = None, tail: bytes = b"", **sound) -> bytes:
    """A WAV file whose data chunk, at byte 36, claims `said` bytes."""
    content = bytearray(encoded("wav", "-bitexact", **sound))
    assert content[36:40] == b"data"
    if said is not None:
        struct.pack_into("<I", content, 40, said)
    if riff is not None:
        struct.pack_into("<I", content, 4, riff)
    return bytes(content) + tail


def w64(encoded: Encoded, said: int) -> bytes:
    content = bytearray(encoded("w64", "-bitexact"))
    struct.pack_into("<Q", content, content.find(b"data") + 16, said)
    return bytes(content)


def rifx(encoded: Encoded, said: int) -> bytes:
    """A big-endian WAV file."""
    pcm = encoded("wav", "-bitexact", "-c:a", "pcm_s16le")[44:]
    head = struct.pack(
        ">4sI4s4sIHHIIHH4sI", b"RIFX", 0, b"WAVE", b"fmt ", 16, 1, 2, 44_100, 176_400, 4, 16, b"data", said
    )
    return head + np.frombuffer(pcm, "<i2").astype(">i2").tobytes()


def written(kind: str, subtype: str, encoded: Encoded) -> bytes:
    """Two seconds as libsndfile writes them."""
    wave, rate_hz = soundfile.read(BytesIO(encoded("wav")))
    file = BytesIO()
    soundfile.write(file, wave, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


def flac_total(flac: bytes, total: int) -> bytes:
    (packed,) = struct.unpack_from(">Q", flac, 18)
    return flac[:18] + struct.pack(">Q", packed >> 36 << 36 | total) + flac[26:]


def without_first_frames(mp3: bytes) -> bytes:
    """As a recorder of radio begins: the first frame needs bytes of those before it."""
    return mp3[4 * 417 + 2 :] if mp3[:2] == b"\xff\xfb" else mp3


WHOLE: dict[str, tuple[int, str, Make]] = {
    "cbr": (TWO, "mp3", lambda e: e("mp3", "-b:a", "128k")),
    "vbr": (TWO, "mp3", lambda e: e("mp3", *VBR)),
    "loud start, no header": (FRAMES, "mp3", lambda e: e("mp3", *BARE)),
    "quiet start, no header": (FRAMES, "mp3", lambda e: e("mp3", *BARE, quiet_start=True)),
    "joined": (2 * TWO, "mp3", lambda e: e("mp3", *VBR) + e("mp3", *VBR, seed=1)),
    "joined, no headers": (2 * FRAMES, "mp3", lambda e: e("mp3", *BARE) + e("mp3", *BARE, quiet_start=True)),
    "joined, second header gone": (
        TWO + FRAMES,
        "mp3",
        lambda e: e("mp3", *VBR, *AS_ID3) + id3v2(90) + e("mp3", *BARE),
    ),
    "joined, tags between": (
        3 * TWO,
        "mp3",
        lambda e: b"".join(id3v2(500) + e("mp3", *VBR, seed=n) + APE + ID3V1 for n in range(3)),
    ),
    "joined, bytes between": (2 * TWO, "mp3", lambda e: e("mp3", *VBR) + bytes(700) + e("mp3", *VBR, *AS_ID3, seed=1)),
    "count 0": (TWO, "mp3", lambda e: with_count(e("mp3", *VBR), 0)),
    "count too small": (TWO, "mp3", lambda e: with_count(e("mp3", *VBR), 20)),
    "count counts its own frame": (TWO, "mp3", lambda e: with_count(e("mp3", *VBR), count_of(e("mp3", *VBR)) + 1)),
    "no count": (FRAMES, "mp3", lambda e: with_count(e("mp3", *VBR), None)),
    "vbri": (FRAMES, "mp3", lambda e: vbri(e("mp3", *BARE), 78)),
    "vbri count 0": (FRAMES, "mp3", lambda e: vbri(e("mp3", *BARE), 0)),
    "big tag": (FRAMES, "mp3", lambda e: id3v2(900_000) + e("mp3", *CBR_BARE)),
    "big tag, vbr": (TWO, "mp3", lambda e: id3v2(900_000) + e("mp3", *VBR)),
    "two tags": (FRAMES, "mp3", lambda e: id3v2(3000) + id3v2(5000) + e("mp3", *BARE)),
    "tags behind": (FRAMES, "mp3", lambda e: e("mp3", *CBR_BARE) + APE + ID3V1),
    "bytes ahead": (FRAMES, "mp3", lambda e: bytes(3000) + e("mp3", *CBR_BARE)),
    "bytes behind": (FRAMES, "mp3", lambda e: e("mp3", *CBR_BARE) + b"<!doctype html>" * 400),
    "begins inside": (FRAMES - 4 * 1152, "mp3", lambda e: without_first_frames(e("mp3", *CBR_BARE))),
    "mono": (TWO, "mp3", lambda e: e("mp3", *VBR, channels=1)),
    "low rate": (44_100, "mp3", lambda e: e("mp3", *VBR, rate_hz=22_050)),
    "lowest rate": (16_000, "mp3", lambda e: e("mp3", *VBR, rate_hz=8000, channels=1)),
    "layer 2": (FRAMES - 1152, "mp3", lambda e: e("mp2", "-b:a", "192k")),
    "layer 2 joined": (2 * (FRAMES - 1152), "mp2", lambda e: e("mp2") + e("mp2", seed=1)),
    "mp3 inside": (TWO, "wav", lambda e: e("mp3", *VBR)),
    "vorbis": (TWO, "ogg", lambda e: e("ogg")),
    "opus": (96_000, "opus", lambda e: e("opus")),
    "vorbis chained": (2 * TWO, "ogg", lambda e: e("ogg") + e("ogg", seed=1)),
    "opus chained": (3 * 96_000, "ogg", lambda e: e("opus") + e("opus", seed=1) + e("opus", quiet_start=True)),
    "vorbis, bytes behind": (TWO, "ogg", lambda e: e("ogg") + bytes(5000)),
    "vorbis chained, bytes between": (2 * TWO, "ogg", lambda e: e("ogg") + ID3V1 + e("ogg", seed=1)),
    "flac in ogg": (2 * TWO, "oga", lambda e: e("oga", "-c:a", "flac") + e("oga", "-c:a", "flac", seed=1)),
    "flac": (TWO, "flac", lambda e: e("flac")),
    "flac without length": (TWO, "flac", lambda e: flac_total(e("flac"), 0)),
    "flac of too little length": (TWO, "flac", lambda e: flac_total(e("flac"), 10_000)),
    "flac joined": (2 * TWO, "flac", lambda e: e("flac") + e("flac", seed=1)),
    "flac, tags": (TWO, "flac", lambda e: id3v2(4000) + e("flac") + ID3V1),
    "flac, bytes behind": (TWO, "flac", lambda e: e("flac") + bytes(9000)),
    "wav": (TWO, "wav", lambda e: wav(e, said=None)),
    "wav of size 0": (TWO, "wav", lambda e: wav(e, said=0)),
    "wav of size 0 in all": (TWO, "wav", lambda e: wav(e, said=0, riff=0)),
    "wav of all ones": (TWO, "wav", lambda e: wav(e, said=0xFFFFFFFF, riff=0xFFFFFFFF)),
    "wav of 2 GiB": (TWO, "wav", lambda e: wav(e, said=0x7FFFF000, riff=0x7FFFF024)),
    "wav wrapped": (TWO, "wav", lambda e: wav(e, said=100_000, riff=100_036)),
    "wav wrapped to odd": (TWO, "wav", lambda e: wav(e, said=99_999)),
    "wav joined": (2 * TWO, "wav", lambda e: wav(e, said=None) + wav(e, said=None, seed=1)),
    "wav joined to one of size 0": (2 * TWO, "wav", lambda e: wav(e, said=None) + wav(e, said=0, seed=1)),
    "wav, chunks behind": (
        TWO,
        "wav",
        lambda e: wav(e, said=None, tail=b"LIST\x05\x00\x00\x00INFO!\x00id3 \x02\x00\x00\x00ab"),
    ),
    "wav, words cut": (TWO, "wav", lambda e: wav(e, said=None, tail=b"LIST\xff\xff\x00\x00INFO" + b"word" * 5000)),
    "wav, bytes behind": (TWO, "wav", lambda e: wav(e, said=None, tail=bytes(20_000) + b"")),
    "wav, tag behind": (TWO, "wav", lambda e: wav(e, said=None, tail=id3v2(20_000))),
    "wav of size 0, mono 8 bit": (TWO, "wav", lambda e: wav_like(e, "PCM_U8")),
    "wav of size 0, 24 bit": (TWO, "wav", lambda e: wav_like(e, "PCM_24")),
    "wav of size 0, float": (TWO, "wav", lambda e: wav_like(e, "FLOAT")),
    "wavex of size 0": (TWO, "wav", lambda e: wav_like(e, "PCM_24", kind="WAVEX")),
    "rifx of size 0": (TWO, "wav", lambda e: rifx(e, 0)),
    "rf64": (TWO, "rf64", lambda e: written("RF64", "PCM_16", e)),
    "w64": (TWO, "w64", lambda e: written("W64", "PCM_24", e)),
    "w64 of size 24": (TWO, "w64", lambda e: w64(e, 24)),
    "aiff": (TWO, "aiff", lambda e: written("AIFF", "PCM_24", e)),
    "caf": (TWO, "caf", lambda e: written("CAF", "PCM_16", e)),
    "caf to the end": (TWO, "caf", lambda e: to_the_end(written("CAF", "PCM_16", e), b"data", 4, 8)),
    "au to the end": (TWO, "au", lambda e: to_the_end(written("AU", "PCM_16", e), b".snd", 8, 4)),
}
"""By name: samples, suffix, and how it is made."""


def wav_like(encoded: Encoded, subtype: str, *, kind: str = "WAV") -> bytes:
    content = bytearray(written(kind, subtype, encoded))
    at = content.find(b"data") + 4
    if b"PEAK" in content:  # libsndfile would read it as audio
        assert content.find(b"PEAK") < at
    content[at : at + 4] = bytes(4)
    return bytes(content)


def to_the_end(content: bytes, name: bytes, ahead: int, size: int) -> bytes:
    """All ones where the length of the audio stands."""
    at = content.find(name) + ahead
    return content[:at] + b"\xff" * size + content[at + size :]


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_is_read_until_its_audio_ends(name, tmp_path, encoded):
    samples, suffix, make = WHOLE[name]
    path = written_as(tmp_path / f"a.{suffix}", make(encoded))
    read = read_audio(path)
    assert read.samples.shape[1] == samples
    np.testing.assert_array_equal(np.concatenate(list(in_blocks(path, 5000)), axis=1), read.samples)
    if name != "flac of too little length":  # which only decoding tells
        assert audio_seconds(path) == pytest.approx(samples / read.rate_hz, abs=0.05)


def written_as(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def in_blocks(path: Path, size: int) -> Iterator[np.ndarray]:
    with audio_stream(path, block_samples=size) as stream:
        for block in stream.blocks:
            assert block.shape[1] <= size
            yield block


JOINED = {"mp3": VBR, "ogg": (), "opus": (), "oga": ("-c:a", "flac"), "flac": (), "wav": (), "mp2": ()}


@pytest.mark.parametrize("suffix", JOINED)
def test_joined_files_hold_the_sound_of_each(suffix, tmp_path, encoded):
    files = [encoded(suffix, *JOINED[suffix], seed=seed) for seed in range(3)]
    each = [read_audio(written_as(tmp_path / f"{n}.{suffix}", file)).samples for n, file in enumerate(files)]
    joined = read_audio(written_as(tmp_path / f"joined.{suffix}", b"".join(files))).samples
    if suffix == "mp2":  # nothing says where one ends; its last overlap goes on into the next
        assert joined.shape[1] == sum(wave.shape[1] for wave in each)
    else:
        np.testing.assert_array_equal(joined, np.concatenate(each, axis=1))


@pytest.mark.parametrize("name", [name for name, (_, suffix, _) in WHOLE.items() if suffix in ("mp3", "ogg", "opus")])
def test_ffmpeg_finds_as_much(name, tmp_path, encoded, ffmpeg_samples):
    """It keeps the encoder's delay where files are joined, and can lose two frames behind a tag between them."""
    samples, suffix, make = WHOLE[name]
    found = ffmpeg_samples(written_as(tmp_path / f"a.{suffix}", make(encoded)))
    assert samples - 3 * 1152 <= found <= samples + 3 * 4000


ORDINARY = {
    "mp3": ("-q:a", "2"),
    "mp2": (),
    "wav": (),
    "flac": (),
    "ogg": (),
    "opus": (),
    "aiff": (),
    "au": (),
    "caf": (),
    "w64": (),
}


@pytest.mark.parametrize("suffix", ORDINARY)
def test_ordinary_files_give_the_samples_that_soundfile_gives(suffix, tmp_path, encoded):
    path = written_as(tmp_path / f"a.{suffix}", encoded(suffix, *ORDINARY[suffix], seconds=9.0))
    expected, rate_hz = soundfile.read(path, dtype="float32")
    read = read_audio(path)
    assert read.rate_hz == rate_hz
    np.testing.assert_array_equal(read.samples, expected.T)


@pytest.mark.parametrize("name", ["acestep_test_track_001.mp3", "slow_motion_dream.mp3", "to_be_an_animal.ogg"])
def test_real_songs_give_the_samples_that_soundfile_gives(name):
    if not SHARED_SONGS.is_dir():
        pytest.skip("no shared audio")
    expected, _ = soundfile.read(SHARED_SONGS / name, dtype="float32")
    np.testing.assert_array_equal(read_audio(SHARED_SONGS / name).samples, expected.T)


def test_a_wav_beyond_4_gib_is_read_to_its_end(tmp_path):
    """Its header can only say what is left over; the file has holes, and its last sample is heard."""
    size, channels = (1 << 32) + 64_000, 500
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(
            b"RIFF",
            size + 36 & 0xFFFFFFFF,
            b"WAVE",
            b"fmt ",
            16,
            3,
            channels,
            8000,
            8 * channels * 8000,
            8 * channels,
            64,
        ),
        *(b"data", size & 0xFFFFFFFF),
    )
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
    assert audio_seconds(path) == size // (8 * channels) / 8000


def twice(suffix: str) -> Make:
    return lambda encoded: encoded(suffix) + encoded(suffix, seed=1)


REFUSED: dict[str, tuple[str, str, Make]] = {
    "cut": ("mp3", r"cut short, it ends after 0\.\d\d s of 2\.04 s\.", lambda e: e("mp3", *VBR)[:-9000]),
    "cut, no header": ("mp3", r"cut short, it ends after 2\.\d\d s inside a frame\.", lambda e: e("mp3", *BARE)[:-100]),
    "cut, big tag": ("mp3", r"cut short, it ends after .*", lambda e: id3v2(90_000) + e("mp3", *VBR)[:-9000]),
    "first cut": (
        "mp3",
        r"damaged \(\d+ bytes after 0\.\d\d s are no audio\)\.",
        lambda e: e("mp3", *VBR)[:-9000] + e("mp3", *VBR),
    ),
    "second cut": (
        "mp3",
        r"cut short, it ends after .* of 2\.04 s\.",
        lambda e: e("mp3", *VBR) + e("mp3", *VBR)[:-9000],
    ),
    "a hole": (
        "mp3",
        r"damaged \(\d+ bytes after 0\.\d\d s are no audio\)\.",
        lambda e: e("mp3", *BARE)[:8000] + e("mp3", *BARE)[9100:],
    ),
    "rate changes": (
        "mp3",
        r"changes from 44100 Hz and 2 channels to 48000 Hz and 2 channels after 2\.00 s\. Export it as one\.",
        lambda e: e("mp3", *VBR) + e("mp3", *VBR, rate_hz=48_000),
    ),
    "rate changes, no headers": (
        "mp3",
        r"changes from 44100 Hz and 2 channels to 48000 Hz and 2 channels after 2\.04 s\. Export it as one\.",
        lambda e: e("mp3", *BARE) + e("mp3", *BARE, rate_hz=48_000),
    ),
    "channels change": (
        "mp3",
        r"changes from 44100 Hz and 1 channel to 44100 Hz and 2 channels after 2\.04 s\. Export it as one\.",
        lambda e: e("mp3", *BARE, channels=1) + e("mp3", *BARE),
    ),
    "no bitrate": (
        "mp3",
        r"damaged \(no MPEG frames that follow one another\)\.",
        lambda e: in_free_format(e("mp3", *CBR_BARE)),
    ),
    "codec changes": (
        "ogg",
        r"changes from 44100 Hz and 2 channels to 48000 Hz and 2 channels after 2\.00 s\. Export it as one\.",
        lambda e: e("ogg") + e("opus"),
    ),
    "ogg cut": ("ogg", r"cut short, its last page is missing\.", lambda e: e("ogg")[:-2000]),
    "chain's first cut": (
        "ogg",
        r"damaged \(the page at byte \d+ was changed\)\.",
        lambda e: e("ogg")[:-2000] + e("ogg", seed=1),
    ),
    "chain's second cut": (
        "ogg",
        r"cut short, its last page is missing\.",
        lambda e: e("ogg") + e("ogg", seed=1)[:-2000],
    ),
    "chain without a last page": (
        "ogg",
        r"cut short, its last page is missing\.",
        lambda e: e("ogg")[: e("ogg").rfind(b"OggS")] + e("ogg", seed=1),
    ),
    "ogg with a hole": (
        "ogg",
        r"damaged \(the page at byte \d+ was changed\)\.",
        lambda e: e("ogg")[:9000] + e("ogg")[9200:],
    ),
    "ogg with more inside": (
        "ogg",
        r"damaged \(9 bytes at byte \d+ are no page\)\.",
        lambda e: e("ogg")[: e("ogg").rfind(b"OggS")] + b"<!doctype" + e("ogg")[e("ogg").rfind(b"OggS") :],
    ),
    "flac cut": ("flac", r"cut short, .*|damaged .*", lambda e: e("flac")[:-9000]),
    "flac of too much length": (
        "flac",
        r"cut short, it ends after 2\.00 s of 2\.27 s\.",
        lambda e: flac_total(e("flac"), 100_000),
    ),
    "wav cut": ("wav", r"cut short, it ends after 1\.\d\d s of 2\.00 s\.", lambda e: wav(e, said=None)[:-90_000]),
    "wav's second cut": ("wav", r"cut short, .*", lambda e: wav(e, said=None) + wav(e, said=None)[:-90_000]),
    "adpcm of size 0": (
        "wav",
        r"goes on after the end that its header tells \(\d+ bytes follow that are no chunk\)\.",
        lambda e: to_the_end(e("wav", "-c:a", "adpcm_ima_wav", "-bitexact"), b"data", 4, 4).replace(
            b"data\xff\xff\xff\xff", b"data" + bytes(4)
        ),
    ),
    "aiff of size 8": ("aiff", r"goes on after .*", lambda e: aiff_of_no_size(written("AIFF", "PCM_16", e))),
    "webm cut": ("webm", r"damaged \(File ended prematurely.*\)\.", lambda e: e("webm", "-c:a", "libopus")[:-9000]),
    "m4a joined": ("m4a", r"another file begins at byte \d+, and would be left out\. Split them\.", twice("m4a")),
    "wma joined": ("wma", r"another file begins at byte \d+, and would be left out\. Split them\.", twice("wma")),
    "tta joined": ("tta", r"another file begins at byte \d+, and would be left out\. Split them\.", twice("tta")),
    "mka cut": ("mka", r"damaged \(File ended prematurely.*\)\.", lambda e: e("mka", "-c:a", "flac")[:-9000]),
}
"""By name: suffix, what the one line says after the file's name, and how it is made."""


def in_free_format(mp3: bytes) -> bytes:
    """Frames that do not tell their bitrate."""
    content, position = bytearray(mp3), 0
    while frame := frame_of(mp3[position : position + 4]):
        content[position + 2] &= 0x0F
        position += frame.size
    return bytes(content)


def aiff_of_no_size(aiff: bytes) -> bytes:
    at = aiff.find(b"SSND") + 4
    return aiff[:at] + struct.pack(">I", 8) + aiff[at + 4 :]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_whole_is_refused_in_one_true_line(name, tmp_path, encoded):
    suffix, says, make = REFUSED[name]
    path = written_as(tmp_path / f"a.{suffix}", make(encoded))
    with pytest.raises(UserError, match=rf"^a\.{suffix}: (?:{says})(?: Export it again\.)?$"):
        read_audio(path)
