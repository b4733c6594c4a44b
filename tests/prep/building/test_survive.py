"""Whatever stops a build, what was done stays, and the next run ends with the bytes of a build that was not stopped."""

import os
import random
import re
import resource
import shutil
import signal
import time
from itertools import count
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

import pytest
import torch

from common import files
from common.errors import UserError
from prep.building.workers import worker_context
from prep.encoding.encode import SongEncoder
from shards.verify import verify

MAIN = """
import os, resource, signal, sys
os.chdir(cwd)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
os.dup2(os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
from prep.cli import main
sys.argv = ["prep", *arguments]
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests run in the background may ignore it
resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
main()
"""


class PrepProcess:
    """prep in a process of its own, which can write no larger file than this.

    It is forked, as prep's workers are, from one that has only imported what they need: a test need not wait for that.
    """

    def __init__(self, *arguments: str, cwd: Path, largest_file: int = resource.RLIM_INFINITY) -> None:
        given = {"arguments": arguments, "cwd": str(cwd), "largest_file": largest_file}
        context = worker_context(("cpu",))
        assert isinstance(context, ForkServerContext | SpawnContext)
        self._process = context.Process(target=exec, args=(MAIN, given))
        self._said = cwd / "said"
        self._process.start()

    def poll(self) -> int | None:
        """How it ended, None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self._process.pid and self.poll() is None:
            os.kill(self._process.pid, number)

    def ends_within(self, seconds: float) -> bool:
        self._process.join(seconds)
        return self.poll() is not None

    def end(self) -> tuple[int | None, str]:
        """How it ends, and what it says on stderr."""
        self._process.join()
        return self._process.exitcode, self._said.read_text(encoding="utf-8")


def segments_in(folder):
    """Numbers of the segments that wait there, encoded."""
    return {int(path.stem[-3:]) for path in (folder / ".build").glob("song-*")}


def kill_amid_work(process, folder):
    """SIGKILL a build once it has encoded something."""
    while not segments_in(folder) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.end()[0] == -signal.SIGKILL


@pytest.mark.parametrize("checkpoint", ["tiny", "tiny15"])
def test_songs_that_were_encoded_before_a_kill_are_not_encoded_again(
    tmp_path, song, build, encoded_songs, hashes, checkpoint
):
    for seed in range(3):
        song(tmp_path / "raw", f"s{seed}", parts=("vocal", "mix"), seed=seed, seconds=2.5)
    flags = ["--checkpoint-dir", checkpoint, "--workers", "1"]
    process = PrepProcess("build-shards", "raw", "shards", *flags, cwd=tmp_path)
    kill_amid_work(process, tmp_path / "shards")
    assert not (tmp_path / "shards" / "manifest.json").exists()
    build(checkpoint=checkpoint)
    assert 0 < len(encoded_songs) < 3
    build("whole", checkpoint=checkpoint)
    assert hashes(tmp_path / "shards") == hashes(tmp_path / "whole")


def test_a_long_song_goes_on_after_the_segment_it_was_killed_in(tmp_path, song, build, config, hashes):
    song(tmp_path / "raw", "long", parts=("vocal", "mix"), seconds=12.0)
    segment = config.segment.model_copy(update={"max_seconds": 2.0, "min_seconds": 0.5, "search_seconds": 0.5})
    settings = config.model_copy(update={"segment": segment})
    flags = [f"segment.{name}={getattr(segment, name)}" for name in ("max_seconds", "min_seconds", "search_seconds")]
    process = PrepProcess(
        "build-shards",
        "raw",
        "shards",
        "--checkpoint-dir",
        "tiny",
        *(w for f in flags for w in ("--set", f)),
        cwd=tmp_path,
    )
    kill_amid_work(process, tmp_path / "shards")
    kept = segments_in(tmp_path / "shards")
    report = build(config=settings)
    whole = build("whole", config=settings)
    assert 0 < len(kept) < whole.manifest.totals.segments
    assert set(report.encoded) == {part for part in whole.encoded if part.segment not in kept}
    assert hashes(tmp_path / "shards") == hashes(tmp_path / "whole")
    assert segments_in(tmp_path / "shards") == set()


def test_an_interrupt_says_that_the_work_is_kept(tmp_path, song, songs, build, hashes):
    for seed in range(4, 6):  # enough to be still at work when the first is done
        song(tmp_path / "raw", f"s{seed}", parts=("vocal", "mix"), seed=seed, seconds=3.0)
    process = PrepProcess("build-shards", "raw", "shards", "--checkpoint-dir", "tiny", "--workers", "2", cwd=tmp_path)
    while not segments_in(tmp_path / "shards") and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    code, said = process.end()
    assert code == 130, said
    assert said.splitlines()[-1] == (
        "stopped; every segment that is encoded is kept, and the same command goes on from there."
    )
    assert "Traceback" not in said
    assert 0 < len({part.song for part in build().encoded}) < 6
    build("whole")
    assert hashes(tmp_path / "shards") == hashes(tmp_path / "whole")


@pytest.fixture
def songs(tmp_path, song):
    for seed in range(4):
        song(tmp_path / "raw", f"s{seed}", parts=("vocal", "mix"), seed=seed, seconds=3.0)


def wait_for_work(process, folder):
    """Return once a build has made its folder, or has ended."""
    while not (folder / ".build" / "lock").exists() and process.poll() is None:
        time.sleep(0.01)


def kill_after(process, folder, seconds):
    """SIGKILL a build so long after its work began, unless it ends before."""
    wait_for_work(process, folder)
    if not process.ends_within(seconds):
        process.send_signal(signal.SIGKILL)
    return process.end()[0] == -signal.SIGKILL


def kill_at_random(tmp_path, build, config, hashes, *, kills, checkpoint="tiny"):
    """Kill new builds and rewritten ones, over and over, and finish each; most must have been killed."""
    text = config.text.model_copy(update={"seed": 1})
    settings = config.model_copy(update={"shard_samples": 2, "text": text})
    flags = ["--checkpoint-dir", checkpoint, "--workers", "1", "--set", "shard_samples=2", "--set", "text.seed=1"]
    whole = PrepProcess("build-shards", "raw", "whole", *flags, cwd=tmp_path)
    wait_for_work(whole, tmp_path / "whole")
    begun = time.monotonic()
    code, errors = whole.end()
    assert code == 0, errors
    work_seconds = time.monotonic() - begun  # of this machine, as busy as it is
    generator, killed = random.Random(0), 0
    for number in range(kills):
        out = f"killed{number}"
        if number % 2:  # an older build, whose texts are to be made anew
            build(out, config=settings.model_copy(update={"text": config.text}), checkpoint=checkpoint)
        process = PrepProcess("build-shards", "raw", out, *flags, cwd=tmp_path)
        moment = (number + generator.random()) / kills * work_seconds
        killed += kill_after(process, tmp_path / out, moment)
        build(out, config=settings, checkpoint=checkpoint)
        assert hashes(tmp_path / out) == hashes(tmp_path / "whole")
    assert killed >= kills / 2


def test_builds_killed_at_random_end_as_one_that_was_not(tmp_path, songs, build, config, hashes):
    kill_at_random(tmp_path, build, config, hashes, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("checkpoint", ["tiny", "tiny15"])
def test_builds_killed_at_20_random_moments_end_as_one_that_was_not(tmp_path, songs, build, config, hashes, checkpoint):
    kill_at_random(tmp_path, build, config, hashes, kills=20, checkpoint=checkpoint)


def test_rewriting_texts_stopped_at_any_file_ends_as_a_build_that_was_not(
    tmp_path, song, build, config, monkeypatch, hashes
):
    for seed in range(3):
        song(tmp_path / "raw", f"s{seed}", seed=seed)
    small = config.model_copy(update={"shard_samples": 2})
    changed = small.model_copy(update={"text": config.text.model_copy(update={"tag_orders": 1})})
    build("whole", config=changed)
    build("older", config=small)
    flush = files.flush
    for flushes in count():
        out, left = f"stopped{flushes}", iter(range(flushes))
        shutil.copytree(tmp_path / "older", tmp_path / out)

        def interrupted(path, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            flush(path)

        monkeypatch.setattr(files, "flush", interrupted)
        try:
            report = build(out, config=changed)
        except KeyboardInterrupt:
            monkeypatch.setattr(files, "flush", flush)
            report = build(out, config=changed)
            assert hashes(tmp_path / out) == hashes(tmp_path / "whole")
        else:
            break
        assert report.encoded == ()
    assert flushes >= 2 * 2 + 2 + 2 + 4  # file and folder of two shards, the list, the record; then four renames


def test_until_the_commit_the_older_shards_are_whole(tmp_path, song, build, config, monkeypatch, hashes):
    song(tmp_path / "raw", "a")
    build()
    before = hashes(tmp_path / "shards")
    monkeypatch.setattr("prep.building.build._Build._pack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    louder = config.model_copy(update={"loudness": config.loudness.model_copy(update={"target_lufs": -10.0})})
    with pytest.raises(KeyboardInterrupt):
        build(config=louder, rebuild=True)
    assert hashes(tmp_path / "shards") == before
    assert verify(tmp_path / "shards") == []


@pytest.mark.parametrize(
    ("largest_file", "segments", "what"),
    [
        (20_000, 0, r"shards/\.build: a song's waves cannot be kept there \(File too large\)\. Make room\."),
        (1_200_000, 4, r"shards/\.build/shard-000000\.tar: cannot be written \(File too large\)\."),
    ],
    ids=["waves", "shard"],
)
def test_a_full_disk_is_one_line_and_what_was_done_stays(
    tmp_path, songs, build, config, hashes, largest_file, segments, what
):
    for path in (tmp_path / "raw").glob("*_prompt.txt"):
        path.write_text(", ".join(f"instrument number {number}" for number in range(20)))
    flags = ["--workers", "1", "--set", "text.tag_orders=64"]
    process = PrepProcess(
        "build-shards", "raw", "shards", "--checkpoint-dir", "tiny", *flags, cwd=tmp_path, largest_file=largest_file
    )
    code, said = process.end()
    assert code == 2
    assert re.fullmatch(f"error: {what}", said.splitlines()[-1]), said
    assert "Traceback" not in said
    assert len(list((tmp_path / "shards" / ".build").glob("song-*"))) == segments
    assert {path.name for path in (tmp_path / "shards").iterdir()} == {".build"}
    many = config.model_copy(update={"text": config.text.model_copy(update={"tag_orders": 64})})
    assert len({part.song for part in build(config=many).encoded}) == 4 - segments
    build("whole", config=many)
    assert hashes(tmp_path / "shards") == hashes(tmp_path / "whole")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, songs, build):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^.*file/shards: cannot be written \(.*file is a file, not a folder\)\. "):
        build("file/shards")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path, songs, build):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"locked/shards: cannot be written \(Permission denied\)\. "):
        build("locked/shards")


def test_memory_that_runs_out_is_one_line_and_the_work_is_kept(tmp_path, song, build, hashes, monkeypatch):
    for seed in range(3):
        song(tmp_path / "raw", f"s{seed}", parts=("vocal", "mix"), seed=seed, seconds=2.0)
    whole, encode, seen = build("whole"), SongEncoder.encode, []

    def full(encoder, prepared, number):
        seen.append(number)
        if len(seen) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB free.")
        return encode(encoder, prepared, number)

    monkeypatch.setattr(SongEncoder, "encode", full)
    with pytest.raises(UserError) as caught:
        build()
    assert str(caught.value) == (
        "out of memory while encoding songs (CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB free). "
        "Every segment that is encoded is kept, and the same command goes on from there. What helps, in this order: "
        "close what else is using the device, --workers 1, --device cpu."
    )
    again = build()
    assert len(again.encoded) == len(whole.encoded) * 2 // 3
    assert hashes(tmp_path / "shards") == hashes(tmp_path / "whole")
