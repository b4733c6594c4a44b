"""Files appear whole or not at all, and what is told to have been written is on the disk."""

import os
from pathlib import Path

import pytest

from common.errors import UserError
from common.files import check_writable, move_file, whole_file


def write(path, text="new", **options):
    with whole_file(path, **options) as partial:
        partial.write_text(text)


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("apart", [False, True])
def test_whatever_the_disk_refuses_the_file_is_the_old_or_the_new_one(tmp_path, each_refusal, apart):
    path = tmp_path / "folder" / "file"
    options = {"partial": tmp_path / "room" / "file"} if apart else {}
    (tmp_path / "room").mkdir()
    left = []
    for message in each_refusal(lambda: write(path, **options), before=lambda: write(path, "old")):
        assert message == f"{path}: cannot be written (No space left on device)."
        left.append(files_in(tmp_path))
    assert left == [{"folder/file": "old"}] * 3 + [{"folder/file": "new"}]  # the folder alone refuses to be flushed
    assert files_in(tmp_path) == {"folder/file": "new"}


def test_a_disk_that_is_full_amid_the_file_keeps_the_old_one(tmp_path, full_disk):
    write(tmp_path / "file", "old")
    with full_disk(100), pytest.raises(UserError) as caught:
        write(tmp_path / "file", "new" * 100)
    assert str(caught.value) == f"{tmp_path}/file: cannot be written (File too large)."
    assert files_in(tmp_path) == {"file": "old"}


def test_a_block_that_fails_keeps_the_old_file_and_its_error(tmp_path):
    write(tmp_path / "file", "old")

    def interrupted():
        with whole_file(tmp_path / "file") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files_in(tmp_path) == {"file": "old"}


def test_a_folder_that_refuses_files_is_known_before_any_is_written(tmp_path, each_refusal, full_disk):
    folder = tmp_path / "not" / "there yet"
    check_writable(folder)
    messages = list(each_refusal(lambda: check_writable(folder), before=lambda: None))
    assert len(messages) > 3
    assert set(messages) == {f"{folder}: cannot be written (No space left on device). Name another folder."}
    with full_disk(100), pytest.raises(UserError, match=r"cannot be written \(File too large\)"):
        check_writable(folder)
    with pytest.raises(UserError, match=r"cannot be written \(File name too long\)"):
        check_writable(tmp_path / ("a" * 300))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError) as caught:
            check_writable(folder)
        message = f"{folder}: cannot be written ({tmp_path}/file is a file, not a folder). Name another folder."
        assert str(caught.value) == message
    assert files_in(tmp_path) == {"file": "mine"}


def test_results_that_are_larger_than_the_disk_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"the results take 1000000000000 MB and \d+ MB are free. Make room"):
        check_writable(tmp_path, needed_bytes=10**18)


@pytest.fixture
def happened(monkeypatch):
    """What is asked of the disk, in order: names that were flushed or renamed to."""
    log = []
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor):
        log.append(("flush", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def renamed(source, target):
        log.append(("rename", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    return log


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no names of descriptors here")
def test_a_file_is_flushed_before_it_has_its_name_and_the_name_after(tmp_path, happened):
    write(tmp_path / "file", partial=tmp_path / "room" / "part")
    assert happened == [
        ("flush", f"{tmp_path}/room/part"),
        ("rename", f"{tmp_path}/file"),
        ("flush", str(tmp_path)),
    ]
    happened.clear()
    move_file(tmp_path / "file", tmp_path / "room" / "moved")
    assert happened == [("rename", f"{tmp_path}/room/moved"), ("flush", f"{tmp_path}/room")]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("note/file", "File exists"), ("note/a/file", "Not a directory"), ("n" * 250, "File name too long")],
)
def test_a_name_that_cannot_be_is_one_line(tmp_path, name, reason):
    (tmp_path / "note").touch()
    with pytest.raises(UserError) as caught:
        write(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: cannot be written ({reason})."
    assert files_in(tmp_path) == {"note": ""}


def test_a_move_that_the_disk_refuses_is_one_line(tmp_path, each_refusal):
    staged, path = tmp_path / "staged", tmp_path / "file"
    refused = list(each_refusal(lambda: move_file(staged, path), before=staged.touch))
    assert refused == [f"{path}: cannot be written (No space left on device)."] * 2
