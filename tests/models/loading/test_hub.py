"""Checkpoints from Hugging Face: a small server speaks the hub's protocol, under the published file names."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import pytest
import torch
from huggingface_hub import _tree_cache, constants

from common.bases import ACE_STEP_1, ACE_STEP_15, BaseOrigin
from common.errors import UserError
from models.loading import hub
from models.loading.acestep1 import open_vocoder
from models.loading.checkpoint import BUNDLES, TINY, TINY15, part_hash, resolve_checkpoint, spec_of, variant_of
from models.loading.family import describe_base

TRANSFORMER, CODEC, TEXT = ACE_STEP_1.parts.transformer, ACE_STEP_1.parts.codec, ACE_STEP_1.parts.text_encoder

NAME = "someone/music"
VOCODER: str = "music_vocoder"
FIRST, SECOND = "1" * 40, "2" * 40
WEIGHTS = "diffusion_pytorch_model.safetensors"
ROOT = Path(__file__).resolve().parents[3]


def published(note: str) -> dict[str, bytes]:
    """The files of a repository in the published layout; `note` is all in which its revisions differ."""
    parts = (TRANSFORMER, CODEC, VOCODER, TEXT)
    files = {f"{part}/{path.name}": path.read_bytes() for part in parts for path in (TINY / part).iterdir()}
    return files | {"README.md": note.encode(), f"{TEXT}/special_tokens_map.json": note.encode()}


@dataclass
class Hub:
    """What the server holds and how it answers."""

    commits: dict[str, dict[str, bytes]]
    main: str = FIRST
    mains: dict[str, str] = field(default_factory=dict)
    """Newest commit of repositories that are not NAME's, by name."""
    refusal: tuple[int, dict[str, str]] | None = None
    """Status and headers of every answer."""
    cut: str | None = None
    """Name of the file whose connection breaks amid it."""
    served: list[str] = field(default_factory=list)

    def commit_of(self, revision: str, name: str) -> str | None:
        commit = self.mains.get(name, self.main) if revision == "main" else revision
        return commit if commit in self.commits else None


def handler(state: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def log_message(self, format: str, *args: object) -> None: ...

        def answer(self, *, body: bool) -> None:
            path = unquote(self.path.partition("?")[0]).strip("/").split("/")
            if state.refusal is not None:
                return self.send(b"", *state.refusal, body=body)
            if path[:2] == ["api", "models"]:
                return self.describe("/".join(path[2:4]), *path[4:6], body=body)
            return self.give(path[3], "/".join(path[4:]), body=body)  # owner/name/resolve/COMMIT/PATH

        def describe(self, name: str, question: str, revision: str, *, body: bool) -> None:
            commit = state.commit_of(revision, name)
            if commit is None:
                return self.send(b"", 404, {"X-Error-Code": "RevisionNotFound"}, body=body)
            files = state.commits[commit]
            tree = [{"type": "file", "path": name, "size": len(data), "oid": oid(data)} for name, data in files.items()]
            about = {"id": NAME, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
            answer = tree if question == "tree" else about
            return self.send(json.dumps(answer).encode(), 200, {"Content-Type": "application/json"}, body=body)

        def give(self, commit: str, name: str, *, body: bool) -> None:
            data = state.commits[commit][name]
            if body:
                state.served.append(name)
            self.send(data, 200, {"ETag": f'"{oid(data)}"', "X-Repo-Commit": commit}, body=body, cut=name == state.cut)

        def send(self, data: bytes, status: int, headers: dict[str, str], *, body: bool, cut: bool = False) -> None:
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut and body:
                self.close_connection = True

    return Handler


def oid(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def repository() -> dict[str, dict[str, bytes]]:
    return {FIRST: published("first"), SECOND: published("second")}


@pytest.fixture
def server(repository, tmp_path, monkeypatch) -> Generator[Hub]:
    """A hub that answers, an empty cache, and a process that has asked for nothing yet."""
    state = Hub(dict(repository))
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    Thread(target=listener.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{listener.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_tree_cache, "_IN_MEMORY_TREE_CACHE", {})
    monkeypatch.setattr(hub, "_commits", {})
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield state
    listener.shutdown()
    listener.server_close()


@pytest.fixture
def offline(monkeypatch) -> Callable[[], None]:
    """offline() sets HF_HUB_OFFLINE, in a process that has asked for nothing yet."""

    def go() -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub._commits.clear()

    return go


@pytest.fixture
def unplugged(monkeypatch) -> Callable[[], None]:
    """unplugged() leaves an address where nobody listens."""

    def go() -> None:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        hub._commits.clear()

    return go


def complaint(name: str = NAME, parts: tuple[str, ...] = (VOCODER,)) -> str:
    with pytest.raises(UserError) as raised:
        resolve_checkpoint(name, parts)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_only_the_parts_that_are_needed_are_fetched_once(server):
    """And the small files that tell of which base model a repository is."""
    folder = resolve_checkpoint(NAME, [VOCODER])
    assert open_vocoder(folder)(torch.zeros(1, 128, 1)).shape == (1, 1, 512)
    configs = [f"{part}/config.json" for part in ACE_STEP_1.files]
    assert sorted(server.served) == sorted([*configs, f"{VOCODER}/{WEIGHTS}"])
    assert resolve_checkpoint(NAME, [VOCODER]) == folder
    assert len(server.served) == 5
    assert folder.name == FIRST


@pytest.mark.parametrize("name", ["ACE-Step/acestep-v15-base", "someone/tuned"])
def test_a_variants_repository_gets_the_rest_from_the_first_one(server, name, unplugged):
    """One of a variant, or of a fine-tune, holds no codec and no text encoder; the first one holds turbo, and both."""
    base, rest = "a" * 40, "b" * 40
    held = {path.relative_to(TINY15).as_posix(): path.read_bytes() for path in TINY15.rglob("*") if path.is_file()}
    alone = {name.partition("/")[2]: data for name, data in held.items() if name.startswith("acestep-v15-base/")}
    server.commits |= {base: alone, rest: {name: data for name, data in held.items() if "v15-base" not in name}}
    server.mains = {name: base, ACE_STEP_15.published_id: rest}
    parts = ACE_STEP_15.parts
    assert spec_of(name) is ACE_STEP_15
    folder = resolve_checkpoint(name, [parts.codec])
    assert (folder.name, "model.safetensors" in server.served) == (base, False)
    assert resolve_checkpoint(name, [parts.transformer, *parts.encoders]) == folder
    assert variant_of(folder) == "base"
    for part in ACE_STEP_15.files:
        assert part_hash(folder, part) == part_hash(BUNDLES["tiny15"], part)
    assert "acestep-v15-turbo/model.safetensors" not in server.served
    whole = resolve_checkpoint(ACE_STEP_15.published_id, [parts.transformer])
    assert (whole.name, variant_of(whole)) == (rest, "turbo")
    unplugged()
    assert spec_of(f"{name}@{base}") is spec_of(name) is ACE_STEP_15


def test_a_fine_tune_with_nothing_but_its_transformer_is_told_by_its_config(server):
    server.commits[FIRST] = {"config.json": b'{"model_type": "acestep"}', "model.safetensors": b""}
    assert spec_of(NAME) is ACE_STEP_15
    assert server.served == ["config.json"]


def test_a_repository_of_no_base_model_is_one_line(server):
    server.commits[FIRST] = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b""}
    assert complaint() == (
        f"{NAME}: holds no network of ace-step-1 or ace-step-1.5, as far as its files are named. Give a repository or "
        "a folder in the layout of ACE-Step/ACE-Step-v1-3.5B or ACE-Step/Ace-Step1.5."
    )
    assert server.served == ["config.json"]


def test_parts_fetched_one_after_the_other_are_of_one_commit(server):
    """The repository moves on between two parts of one process."""
    first = resolve_checkpoint(NAME, [CODEC])
    server.main = SECOND
    assert resolve_checkpoint(NAME, [TEXT]) == first
    assert (first / TEXT / "special_tokens_map.json").read_bytes() == b"first"


def test_what_was_recorded_is_fetched_at_its_commit(server):
    """prep on one day, train on another: the id with its commit is what shards name, and what training asks for."""
    folder = resolve_checkpoint(NAME, [CODEC])
    recorded = describe_base(NAME, folder, CODEC)
    assert recorded == BaseOrigin(family="tiny", checkpoint=NAME, revision=FIRST)
    server.main = SECOND
    hub._commits.clear()
    assert recorded.name is not None
    assert resolve_checkpoint(recorded.name, [TRANSFORMER]).name == FIRST
    assert resolve_checkpoint(NAME, [TRANSFORMER]).name == SECOND


@pytest.mark.parametrize("way", ["offline", "unplugged", "down"])
def test_a_cache_that_holds_it_is_enough(server, offline, unplugged, way):
    folder = resolve_checkpoint(NAME, [VOCODER, CODEC])
    if way == "down":
        server.refusal = (503, {})
        hub._commits.clear()
    else:
        {"offline": offline, "unplugged": unplugged}[way]()
    assert resolve_checkpoint(NAME, [VOCODER]) == folder
    assert resolve_checkpoint(f"{NAME}@{FIRST}", [VOCODER]) == folder


def test_an_empty_cache_in_offline_mode_is_one_line(server, offline, tmp_path):
    offline()
    assert complaint() == (
        f"{NAME}: no such folder, not in the cache {tmp_path / 'hub'}, and HF_HUB_OFFLINE is set. "
        "Unset it once to fetch it, or give a folder."
    )


def test_an_empty_cache_without_a_connection_is_one_line(unplugged, server, tmp_path):
    unplugged()
    assert complaint() == (
        f"{NAME}: no such folder, not in the cache {tmp_path / 'hub'}, and http://127.0.0.1:9 does not answer. "
        "Check the connection and run this again, or give a folder."
    )


def test_a_cache_that_lacks_a_part_says_which_way_it_comes(server, offline, tmp_path):
    resolve_checkpoint(NAME, [VOCODER])
    offline()
    assert complaint(parts=(VOCODER, CODEC)) == (
        f"{NAME}: only a part of it is in the cache {tmp_path / 'hub'}, and HF_HUB_OFFLINE is set. "
        "Unset it once to fetch the rest, or give a folder."
    )


def test_a_download_that_ended_amid_a_part_is_one_line(server, offline, tmp_path):
    """As an older program left it, which kept no list of what there should be."""
    folder = resolve_checkpoint(NAME, [VOCODER])
    (folder / VOCODER / WEIGHTS).unlink()
    shutil.rmtree(tmp_path / "hub" / "models--someone--music" / "trees")
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()
    offline()
    message = complaint()
    assert message.startswith(f"{NAME}: ")
    assert "HF_HUB_OFFLINE" in message


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (
            403,
            {"X-Error-Code": "GatedRepo"},
            "Hugging Face gives it only to users who have accepted its terms. Log in (hf auth login) or set HF_TOKEN, "
            "or give a folder.",
        ),
        (
            404,
            {"X-Error-Code": "RepoNotFound"},
            "no such folder, and no such repository on Hugging Face, or a private one. Check the name. "
            "Log in (hf auth login) or set HF_TOKEN, or give a folder.",
        ),
        (
            401,
            {},
            "no such folder, and no such repository on Hugging Face, or a private one. Check the name. "
            "Log in (hf auth login) or set HF_TOKEN, or give a folder.",
        ),
    ],
)
def test_what_the_hub_refuses_is_one_line(server, status, headers, said):
    server.refusal = (status, headers)
    assert complaint() == f"{NAME}: {said}"


def test_a_token_that_the_hub_refuses_is_one_line(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    server.refusal = (401, {"X-Error-Message": "Invalid credentials in Authorization header"})
    assert complaint() == (
        f"{NAME}: Hugging Face refuses the token of this machine. Log in (hf auth login) or set HF_TOKEN anew, "
        "or give a folder."
    )


def test_a_revision_that_is_not_there_is_one_line(server):
    assert complaint(f"{NAME}@v9") == (
        f"{NAME}@v9: this repository of Hugging Face has no revision v9. Leave out what follows the @."
    )


def test_a_part_that_the_repository_lacks_is_one_line(server, repository):
    server.commits[FIRST] = {name: data for name, data in repository[FIRST].items() if not name.startswith(VOCODER)}
    assert complaint(parts=(CODEC, VOCODER)) == (
        f"{NAME}: there is no {VOCODER}/ in it. Give a folder in the layout of ACE-Step-v1-3.5B."
    )


def test_a_connection_that_breaks_amid_a_file_leaves_none_and_the_next_try_is_whole(server, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub's client waits before it tries again
    server.cut = f"{VOCODER}/{WEIGHTS}"
    message = complaint()
    assert message.startswith(f"{NAME}: cannot be fetched from Hugging Face (")
    assert message.endswith("). Run this again: files that are whole are kept.")
    server.cut = None
    assert open_vocoder(resolve_checkpoint(NAME, [VOCODER])) is not None


def test_a_damaged_file_of_the_cache_is_named_with_the_way_to_have_it_again(server):
    folder = resolve_checkpoint(NAME, [VOCODER])
    blob = (folder / VOCODER / WEIGHTS).resolve()
    blob.write_bytes(blob.read_bytes()[:1000])
    with pytest.raises(UserError) as raised:
        open_vocoder(folder)
    assert str(raised.value).endswith(f" Remove {blob}, and it is downloaded again.")
    blob.unlink()
    assert open_vocoder(resolve_checkpoint(NAME, [VOCODER])) is not None


def test_a_command_reads_from_the_endpoint_that_the_environment_names(server, tmp_path):
    """HF_ENDPOINT and HF_HOME, as a user sets them, in a process of its own."""
    environment = {"HF_ENDPOINT": constants.ENDPOINT, "HF_HOME": str(tmp_path / "home")}
    program = (
        "import sys; from models.loading.checkpoint import *; print(resolve_checkpoint(sys.argv[1], ['music_vocoder']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, NAME],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()) == tmp_path / "home" / "hub" / "models--someone--music" / "snapshots" / FIRST
