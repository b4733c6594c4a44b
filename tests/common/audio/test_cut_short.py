"""However a file is cut: it is refused, or nothing of its sound is missing, wherever its kind lets that be known."""

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.audio.decode import MISSING_SECONDS
from common.audio.wave import read_audio
from common.errors import UserError

KINDS = {
    "mp3": ("-q:a", "2"),
    "flac": (),
    "ogg": (),
    "opus": (),
    "oga": ("-c:a", "flac"),
    "wav": (),
    "aiff": (),
    "w64": (),
    "caf": (),
    "au": (),
}
"""MP3 without a Xing header, and files that were joined, can be cut between two frames, or files, unnoticed."""


def samples_of(path: Path, content: bytes) -> int | None:
    """Samples of a file; None where it is refused."""
    path.write_bytes(content)
    try:
        return read_audio(path).samples.shape[1]
    except UserError as error:
        said = str(error)
    assert said.startswith(path.name)
    assert "\n" not in said
    return None


@pytest.mark.parametrize("suffix", KINDS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_cut_makes_a_song_silently_shorter(suffix, data, encoded, tmp_path_factory):
    whole = encoded(suffix, *KINDS[suffix], seconds=1.0)
    path = tmp_path_factory.getbasetemp() / f"cut.{suffix}"
    full = samples_of(path, whole)
    assert full is not None
    kept = data.draw(st.integers(1, len(whole) - 1) | st.integers(len(whole) - 300, len(whole) - 1), "bytes kept")
    found = samples_of(path, whole[:kept])
    slack = 0 if suffix in ("mp3", "flac", "ogg", "opus", "oga") else MISSING_SECONDS * 44_100
    assert found is None or full - slack <= found <= full


def test_a_file_that_was_cut_between_two_packets_is_refused(encoded, tmp_path):
    whole = encoded("caf", seconds=1.0)
    behind = whole.index(b"data") + 16
    (tmp_path / "a.caf").write_bytes(whole[: behind + 8 * 4096])
    with pytest.raises(UserError) as caught:
        read_audio(tmp_path / "a.caf")
    missing = len(whole) - behind - 8 * 4096
    assert str(caught.value) == f"a.caf: cut short, {missing} bytes of its audio are missing. Export it again."


@pytest.mark.parametrize("options", [("-b:a", "128k"), ("-q:a", "2")])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_mp3_without_a_header_is_cut_unnoticed_only_between_frames(options, data, encoded, tmp_path_factory):
    whole = encoded("mp3", *options, "-write_xing", "0", "-id3v2_version", "0", seconds=1.0)
    kept = data.draw(st.integers(1, len(whole) - 1), "bytes kept")
    found = samples_of(tmp_path_factory.getbasetemp() / "bare.mp3", whole[:kept])
    assert found is None or (found % 1152 == 0 and whole[kept : kept + 2] == whole[:2])


@pytest.mark.parametrize("suffix", ["m4a", "mka", "tta", "webm", "wma", "wv"])
def test_no_cut_makes_a_song_of_another_kind_silently_shorter(suffix, encoded, tmp_path):
    whole = encoded(suffix, *(("-movflags", "+faststart") if suffix == "m4a" else ()))
    full = samples_of(tmp_path / f"a.{suffix}", whole)
    for share in (0.3, 0.8, 0.98):
        assert samples_of(tmp_path / f"a.{suffix}", whole[: round(share * len(whole))]) in (None, full)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_bytes_taken_out_of_the_middle_are_missed(data, encoded, tmp_path_factory):
    suffix = data.draw(st.sampled_from(["mp3", "flac", "ogg"]))
    whole = encoded(suffix, *KINDS[suffix], seconds=1.0)
    start = data.draw(st.integers(600, len(whole) - 2), "from")  # behind what says how long it is
    end = data.draw(st.integers(start + 1, len(whole) - 1), "to")
    path = tmp_path_factory.getbasetemp() / f"hole.{suffix}"
    full, found = samples_of(path, whole), samples_of(path, whole[:start] + whole[end:])
    assert full is not None
    assert found is None or found >= full - MISSING_SECONDS * 44_100


@given(
    content=st.binary(max_size=300),
    magic=st.sampled_from([b"", b"OggS", b"fLaC", b"RIFF", b"ID3", b"\xff\xfb\x90\x64"]),
)
@settings(max_examples=100, deadline=None)
def test_noise_is_no_song(content, magic, tmp_path_factory):
    """Nor does it end in anything but one line."""
    found = samples_of(tmp_path_factory.getbasetemp() / "noise.wav", magic + content or b"\x00")
    assert found is None


def test_the_same_bytes_give_the_same_samples(encoded, tmp_path):
    path = tmp_path / "a.mp3"
    path.write_bytes(encoded("mp3", "-q:a", "2", seconds=9.0) + encoded("mp3", "-q:a", "2", seed=1))
    np.testing.assert_array_equal(read_audio(path).samples, read_audio(path).samples)


class FailingFile(io.BytesIO):
    """A disk that gives an error behind the first 50 000 bytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 50_000:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


@pytest.mark.parametrize(("suffix", "options"), [("wav", ()), ("flac", ()), ("mp3", ("-b:a", "320k")), ("ogg", ())])
def test_a_disk_that_fails_is_not_a_song_that_ends(suffix, options, encoded, tmp_path, monkeypatch):
    path = tmp_path / f"a.{suffix}"
    whole = encoded(suffix, *options, seconds=9.0)
    assert len(whole) > 50_000
    path.write_bytes(whole)
    monkeypatch.setattr(Path, "open", lambda self, mode: FailingFile(whole))
    with pytest.raises(UserError, match=rf"^a\.{suffix}: cannot be read \(Input/output error\)\.$"):
        read_audio(path)
