"""Builds repeat, extend and survive: same songs, same bytes, whatever happened on the way."""

import errno
import os
import shutil
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common import files
from common.errors import UserError
from models.loading.checkpoint import TINY
from prep.building.identity import STEPS
from prep.config import PrepConfig
from shards.reader import read_manifest
from shards.verify import verify

STEMS = ("vocal", "mix")


def test_two_builds_give_the_same_bytes_whatever_the_workers_and_the_order_of_the_folder(
    tmp_path, song, build, monkeypatch, hashes
):
    song(tmp_path / "raw", "a", seed=1)
    song(tmp_path / "raw", "b", parts=("song",), seed=2)
    song(tmp_path / "raw", "c", parts=("vocal", "inst"), seed=3)
    build("one")
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: reversed(list(listed(folder))))
    build("two", workers=2)
    monkeypatch.undo()
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_a_rerun_encodes_nothing_and_changes_nothing(tmp_path, song, build, encoded_songs, hashes):
    song(tmp_path / "raw", "a")
    build()
    before = hashes(tmp_path / "shards")
    for path in (tmp_path / "raw").iterdir():
        path.touch()
    assert build().kept == 1
    assert encoded_songs == ["a"]
    assert hashes(tmp_path / "shards") == before


def test_new_songs_are_appended_and_nothing_older_is_touched(tmp_path, song, build, encoded_songs, hashes):
    song(tmp_path / "raw", "m", seed=1)
    build()
    before = hashes(tmp_path / "shards")
    song(tmp_path / "raw", "a", seed=2)
    song(tmp_path / "raw", "z", parts=("song",), seed=3)
    report = build()
    assert encoded_songs == ["m", "a", "z"]
    assert hashes(tmp_path / "shards")["shard-000000.tar"] == before["shard-000000.tar"]
    manifest = read_manifest(tmp_path / "shards")
    assert [[segment.key for segment in shard.segments] for shard in manifest.shards] == [["m_000"], ["a_000", "z_000"]]
    assert (report.kept, manifest.totals.songs) == (3, 3)
    assert "demucs" in manifest.fingerprint.networks
    assert verify(tmp_path / "shards") == []


def test_songs_that_left_stay_in_the_shards(tmp_path, song, build, hashes):
    song(tmp_path / "raw", "a", seed=1)
    build()
    before = hashes(tmp_path / "shards")
    song(tmp_path / "other", "b", seed=2)
    build(raw="other")
    assert read_manifest(tmp_path / "shards").totals.songs == 2
    assert hashes(tmp_path / "shards")["shard-000000.tar"] == before["shard-000000.tar"]


def test_a_changed_setting_names_itself_and_needs_rebuild(tmp_path, song, build, config, encoded_songs, hashes):
    song(tmp_path / "raw", "a")
    build()
    before = hashes(tmp_path / "shards")
    softer = config.model_copy(update={"loudness": config.loudness.model_copy(update={"target_lufs": -16.0})})
    with pytest.raises(UserError) as raised:
        build(config=softer)
    assert str(raised.value) == (
        "these shards were built otherwise: loudness.target_lufs was -14.0, is -16.0. Use --rebuild, or another folder."
    )
    assert hashes(tmp_path / "shards") == before
    build(config=softer, rebuild=True)
    assert encoded_songs == ["a", "a"]
    build("anew", config=softer)
    assert hashes(tmp_path / "shards") == hashes(tmp_path / "anew")


def other_weights(part):
    """The tiny bundle with another network for one part."""

    def change(tmp_path, monkeypatch):
        shutil.copytree(TINY, tmp_path / "base")
        (path,) = (tmp_path / "base" / part).glob("*.safetensors")
        with safe_open(path, framework="pt") as file:
            weights, notes = load_file(path), file.metadata()
        name = next(name for name in weights if weights[name].ndim > 1)
        save_file({**weights, name: weights[name] * 2}, path, notes)
        return {"checkpoint": str(tmp_path / "base")}

    return change


def other_code(tmp_path, monkeypatch):
    monkeypatch.setitem(STEPS, "encode", STEPS["encode"] + 1)
    return {}


@pytest.mark.parametrize(
    ("change", "named", "parts"),
    [
        (other_weights("music_dcae_f8c8"), r"network music_dcae_f8c8 was [0-9a-f]{8}, is [0-9a-f]{8}", STEMS),
        (other_weights("demucs"), r"network demucs was [0-9a-f]{8}, is [0-9a-f]{8}", ("song",)),
        (other_code, r"encode was \d+, is \d+ \(code of this step\)", STEMS),
        (lambda *_: {"config": PrepConfig(targets=("inst",))}, r"targets was \['inst', 'mix'\], is \['inst'\]", STEMS),
    ],
    ids=["codec", "separator", "code", "targets"],
)
def test_what_is_stale_is_named_and_encodes_nothing_without_rebuild(
    tmp_path, song, build, monkeypatch, encoded_songs, hashes, change, named, parts
):
    song(tmp_path / "raw", "a", parts=parts)
    build()
    before = hashes(tmp_path / "shards")
    options = change(tmp_path, monkeypatch)
    with pytest.raises(
        UserError, match=rf"^these shards were built otherwise: {named}\. Use --rebuild, or another folder\.$"
    ):
        build(**options)
    assert (encoded_songs, hashes(tmp_path / "shards")) == (["a"], before)
    assert len({part.song for part in build(rebuild=True, **options).encoded}) == 1


def test_a_changed_song_names_itself_and_needs_rebuild(tmp_path, song, build):
    song(tmp_path / "raw", "a", seed=1)
    build()
    song(tmp_path / "raw", "a", seed=2)
    with pytest.raises(UserError, match=r"^a has changed since these shards were built\. Use --rebuild\.$"):
        build()
    assert len(build(rebuild=True).encoded) == 3


def stop_at(monkeypatch, flushes):
    """Let the flush of a finished file be interrupted once so many have gone well."""
    flush, left = files.flush, iter(range(flushes))

    def interrupted(path):
        if next(left, None) is None:
            raise KeyboardInterrupt
        flush(path)

    monkeypatch.setattr(files, "flush", interrupted)


@pytest.mark.parametrize("rebuild", [False, True])
def test_a_build_stopped_at_any_file_and_run_again_ends_as_one_that_was_not(
    tmp_path, song, build, config, monkeypatch, hashes, rebuild
):
    """Amid the encoding, from nothing; amid the packing, from where all is encoded."""
    for seed in range(2):
        song(tmp_path / "raw", f"s{seed}", seed=seed)
    smaller = config.model_copy(update={"shard_samples": 1, "text": config.text.model_copy(update={"seed": 1})})
    again = partial(build, config=smaller, rebuild=rebuild)
    build("whole", config=smaller)
    build("older") if rebuild else (tmp_path / "older").mkdir()

    def stopped(flushes, start, out):
        """Whether there were more flushes than these in a build that goes on from a copy of `start`."""
        shutil.copytree(tmp_path / start, tmp_path / out)
        with monkeypatch.context() as patched:
            stop_at(patched, flushes)
            try:
                again(out)
            except KeyboardInterrupt:
                return True
        return False

    encoding = 2 * 2  # file and folder, of two segments
    assert stopped(encoding, "older", "encoded")
    for flushes in range(encoding):
        out = f"encoding{flushes}"
        assert stopped(flushes, "older", out)
        again(out)
        assert hashes(tmp_path / out) == hashes(tmp_path / "whole")
    for flushes in count():
        out = f"packing{flushes}"
        if not stopped(flushes, "encoded", out):
            break
        again(out)
        assert hashes(tmp_path / out) == hashes(tmp_path / "whole")
    assert flushes >= 2 * (2 + 1 + 1)  # of two shards, the rejected and the manifest


def test_a_disk_that_refuses_stops_the_build_and_keeps_what_was_done(tmp_path, song, build, monkeypatch, hashes):
    for seed in range(2):
        song(tmp_path / "raw", f"s{seed}", seed=seed)
    flush, full = files.flush, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    outcomes = iter([*[None] * 4, full])  # the cache, a first song

    def refuse(path):
        if error := next(outcomes):
            raise error
        flush(path)

    monkeypatch.setattr(files, "flush", refuse)
    with pytest.raises(
        UserError, match=r"song-[0-9a-f]{64}-000\.safetensors: cannot be written \(No space left on device\)\.$"
    ):
        build()
    monkeypatch.undo()
    assert len(list((tmp_path / "shards" / ".build").glob("song-*"))) == 1
    build()
    build("whole")
    assert hashes(tmp_path / "shards") == hashes(tmp_path / "whole")
