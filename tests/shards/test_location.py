"""Shards that do not lie in a folder: what comes is checked, what may come later is asked for again."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path

import pytest

import shards.location
from common.errors import UserError
from shards.location import CHUNK_BYTES, address, location_of
from shards.reader import read_manifest, read_shard

Answer = tuple[int, bytes]


@dataclass
class Server:
    """Serves a folder below /songs, but for the answers listed first in `instead`."""

    url: str
    stop: Callable[[], None]
    instead: list[Answer | None] = field(default_factory=list)  # None hangs up amid the answer
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(shards.location, "WAITS_SECONDS", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "*")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            serving.asked.append(self.path)
            path = tmp_path / self.path.partition("?")[0].removeprefix("/songs/")
            found = (200, path.read_bytes()) if path.is_file() else (404, b"")
            answer = serving.instead.pop(0) if serving.instead else found
            status, content = answer or found
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if answer else content[: len(content) // 2])

        def log_message(self, format, *args):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()

    def stop():
        listening.shutdown()
        listening.server_close()

    serving = Server(f"http://127.0.0.1:{listening.server_port}/songs/", stop)
    yield serving
    stop()


def read(place):
    return [sample for entry in read_manifest(place).shards for sample in read_shard(place, entry)]


def complaint(place):
    with pytest.raises(UserError) as caught:
        read(place)
    return str(caught.value)


def test_a_server_gives_what_the_folder_holds(tmp_path, songs, write, server, assert_same):
    write(tmp_path, songs, shard_samples=4)
    (tmp_path / "shard-000099.tar").write_text("nobody asks for what the manifest does not name")
    for ours, written in zip(read(location_of(server.url)), chain(*songs), strict=True):
        assert_same(ours, written)
    assert server.asked == ["/songs/manifest.json", "/songs/shard-000000.tar", "/songs/shard-000001.tar"]


def test_a_query_stays_behind_the_name():
    assert address("https://host/songs?key=1", "manifest.json") == "https://host/songs/manifest.json?key=1"
    assert address("pipe:ssh host cat songs/{}", "manifest.json") == "pipe:ssh host cat songs/manifest.json"
    assert address(Path("songs"), "manifest.json") == str(Path("songs", "manifest.json"))


def test_trouble_that_passes_is_sat_out(tmp_path, songs, write, server):
    write(tmp_path, songs)
    server.instead = [(503, b"")]
    assert len(read(server.url)) == 8
    (entry,) = read_manifest(server.url).shards
    server.instead = [None, (429, b"")]
    assert len(list(read_shard(server.url, entry))) == 8


def test_trouble_that_stays_is_one_line(tmp_path, songs, write, server):
    manifest = write(tmp_path, songs)
    url, size = f"{server.url}shard-000000.tar", manifest.shards[0].bytes

    def shard_complaint(*instead):
        server.instead = list(instead)
        with pytest.raises(UserError) as caught:
            list(read_shard(server.url, manifest.shards[0]))
        return str(caught.value)

    assert shard_complaint(*[None] * 3) == (
        f"{url}: not to be had in 3 tries ({size // 2} of {size} bytes came). Is the server there?"
    )
    assert shard_complaint(*[(500, b"")] * 3) == (
        f"{url}: not to be had in 3 tries (the server says 500 Internal Server Error). Is the server there?"
    )
    content = bytearray((tmp_path / "shard-000000.tar").read_bytes())
    assert shard_complaint((200, bytes(content) + b"more")) == (
        f"{url}: its bytes are {size + 4}, the manifest says {size}. Copy the shards again."
    )
    content[700] ^= 1
    assert shard_complaint((200, bytes(content))).startswith(f"{url}: its sha256 are ")
    (tmp_path / "shard-000000.tar").unlink()
    assert shard_complaint() == f"{url}: the server says 404 Not Found. Is this a folder of shards?"
    assert server.instead == []


def test_of_a_server_that_sends_no_end_of_bytes_only_the_first_are_taken(tmp_path, songs, write, server):
    (entry,) = write(tmp_path, songs).shards
    server.instead = [(200, (tmp_path / entry.name).read_bytes() + bytes(16 * CHUNK_BYTES))]
    with pytest.raises(UserError) as caught:
        list(read_shard(server.url, entry))
    found = re.match(r".*: its bytes are (\d+), the manifest says \d+\. Copy the shards again\.$", str(caught.value))
    assert found is not None
    assert int(found[1]) <= entry.bytes + 2 * CHUNK_BYTES


def test_a_manifest_that_is_none_is_one_line(tmp_path, server):
    url = f"{server.url}manifest.json"
    assert complaint(server.url) == f"{url}: the server says 404 Not Found. Is this a folder of shards?"
    (tmp_path / "manifest.json").write_text("<html>")
    assert complaint(server.url).startswith(f"{url}: not valid JSON (")
    (tmp_path / "manifest.json").write_text("[]")
    assert complaint(server.url) == f"{url}: holds a list; a manifest is a JSON object."
    server.stop()
    assert complaint(server.url).startswith(f"{url}: not to be had in 3 tries (")
    assert complaint(server.url).endswith("). Is the server there?")


def test_a_pipe_is_a_command_of_the_user_and_no_one_elses(tmp_path, songs, write):
    write(tmp_path, songs, shard_samples=4)
    assert len(read(location_of(f"pipe:cat '{tmp_path}'/{{}}"))) == 8
    with pytest.raises(UserError) as caught:
        location_of("pipe:cat songs")
    assert str(caught.value) == (
        "pipe:cat songs: write {} where the name of a file goes, as in pipe:ssh host cat shards/{}"
    )
    assert complaint("pipe:exit 3; {}").startswith("pipe:exit 3; manifest.json: the command failed (")


def test_a_shard_of_another_size_is_noticed(tmp_path, songs, write):
    manifest = write(tmp_path, songs)
    path = tmp_path / "shard-000000.tar"
    path.write_bytes(path.read_bytes() + b"\0" * 512)
    size = manifest.shards[0].bytes
    assert (
        complaint(tmp_path) == f"{path}: its bytes are {size + 512}, the manifest says {size}. Copy the shards again."
    )
    path.unlink()
    assert complaint(tmp_path) == f"{path}: missing, though the manifest names it. Build again, or restore the file."


def test_a_broken_header_is_not_the_end(tmp_path, songs, write):
    write(tmp_path, songs)
    path = tmp_path / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[content.index(b"b_000.json") + 1] ^= 1
    path.write_bytes(content)
    assert complaint(tmp_path) == f"{path}: damaged (bad header). Check with prep verify."


def test_fields_can_be_left_out(tmp_path, songs, write):
    (entry,) = write(tmp_path, songs).shards
    assert {tuple(sample.targets) for sample in read_shard(tmp_path, entry, without={"mix"})} == {("inst",)}
