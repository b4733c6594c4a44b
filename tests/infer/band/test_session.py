"""One session for several requests: what it opens, what it makes, what it says, and how it stops."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from common.audio.wave import write_audio
from common.errors import UserError
from infer.band.generate import generate
from infer.band.session import Session, SessionCancelledError
from infer.request.request import GenerationRequest, Runtime
from models.adapters.conditioning import Conditioning, ControlShape
from models.loading.checkpoint import TINY

CONTROL = Conditioning(
    mode="controlnet",
    a_max=0.0,
    source_projection=False,
    control=ControlShape(depth=2, dim=128, injection_layers=(0, 2)),
)


@pytest.fixture
def vocal_file(brief_vocal_file) -> Path:
    return brief_vocal_file


@pytest.fixture
def request_of(tmp_path, vocal_file, adapter):
    """request_of(name, **changes) is a request whose results go to a folder of that name."""

    def make(name, **changes):
        flags: dict[str, Any] = {
            "adapters": (adapter,),
            "vocal": vocal_file,
            "prompt": "piano",
            "infer_steps": 2,
        } | changes
        return GenerationRequest(**flags, output_dir=tmp_path / name, device="cpu")

    return make


def written(made):
    return {path.name: path.read_bytes() for path in (*made.accompaniments, *made.mixes, made.record)}


def test_requests_of_one_session_equal_separate_runs_on_networks_opened_once(
    tmp_path, request_of, make_voice, make_adapter, style, shards, opened
):
    """Another vocal, another prompt, another adapter, a style, shards, and the first again."""
    other = tmp_path / "other_vocal.wav"
    write_audio(other, make_voice(1.0, 48_000), 48_000)
    requests = {
        "first": {},
        "other": {"vocal": other, "prompt": "organ", "seed": 3},
        "control": {"adapters": (make_adapter(CONTROL),), "blend": other, "vocal": other},
        "style": {"style_lora": style, "lora_weights": (0.5,)},
        "shards": {"vocal": None, "prompt": None, "shards": shards, "key": "ballad"},
        "again": {},
    }
    session = Session()
    together = {name: written(generate(request_of(name, **flags), session)) for name, flags in requests.items()}
    assert set(opened.values()) == {1}
    assert len(opened) == 4
    for name, flags in requests.items():
        assert written(generate(request_of(f"{name}_alone", **flags))) == together[name], name
    assert together["again"] == together["first"]


def test_without_room_one_network_is_open_at_a_time(request_of, opened):
    session = Session(keep=False)
    for name in ("one", "two"):
        generate(request_of(name), session)
        assert list(session._open) == ["decoder"]
    assert set(opened.values()) == {2}
    assert len(opened) == 4


def test_an_adapter_that_changed_on_disk_is_read_again(request_of, make_adapter):
    session = Session()
    first = written(generate(request_of("first", adapters=(make_adapter(),)), session))
    changed = make_adapter(CONTROL)
    now = written(generate(request_of("now", adapters=(changed,)), session))
    assert now != first
    assert now == written(generate(request_of("alone", adapters=(changed,))))


def test_a_file_is_hashed_once_while_it_stays(tmp_path, hashed):
    path, session = tmp_path / "weights", Session()
    path.write_bytes(b"one")
    assert session.sha256(path) == session.sha256(path)
    path.write_bytes(b"other")
    assert session.sha256(path) == hashlib.sha256(b"other").hexdigest()
    assert hashed == {path: 2}


def test_progress_is_reported_step_by_step(request_of):
    said = []
    generate(request_of("out", num_samples=2), Session(on_progress=said.append))
    assert [(step.task, step.done, step.total) for step in said] == [("sampling", done, 4) for done in (1, 2, 3, 4)]


def test_a_session_that_is_cancelled_stops_at_the_next_step_and_keeps_what_is_finished(tmp_path, request_of):
    steps = []
    session = Session(on_progress=steps.append, is_cancelled=lambda: len(steps) == 3)
    generate(request_of("finished"), session)
    with pytest.raises(SessionCancelledError):
        generate(request_of("cancelled"), session)
    assert len(steps) == 3
    assert len(list((tmp_path / "finished").iterdir())) == 3
    assert not (tmp_path / "cancelled").exists()


def test_a_session_that_is_cancelled_opens_nothing(opened):
    with pytest.raises(SessionCancelledError):
        Session(is_cancelled=lambda: True).decoder(Runtime(TINY, torch.device("cpu")))
    assert not opened


def test_without_an_adapter_the_base_plays_from_the_prompt_alone(tmp_path, request_of, make_voice, make_adapter):
    """The band of another voice is the same, and that of an adapter at strength and weight 0."""
    other = tmp_path / "other_vocal.wav"
    write_audio(other, make_voice(0.8, 48_000)[:, ::-1], 48_000)
    bare: dict[str, Any] = {"adapters": (), "checkpoint_dir": "tiny"}
    made = generate(request_of("bare", **bare))
    others = generate(request_of("other", **bare, vocal=other))
    flags = {"ref_strength": 0.0, "lora_weights": (0.0,)}
    settings = ("sampler.guidance_scale=15",)
    quiet = generate(request_of("quiet", adapters=(make_adapter(),), **flags, settings=settings))
    assert made.accompaniments[0].read_bytes() == others.accompaniments[0].read_bytes()
    assert made.accompaniments[0].read_bytes() == quiet.accompaniments[0].read_bytes()
    assert made.mixes[0].read_bytes() != others.mixes[0].read_bytes()


def test_without_an_adapter_there_is_no_strength_and_a_base_is_named(request_of):
    with pytest.raises(UserError) as no_base:
        generate(request_of("none", adapters=()))
    assert str(no_base.value).startswith("which base model? Give --checkpoint-dir ")
    with pytest.raises(UserError) as no_strength:
        generate(request_of("none", adapters=(), checkpoint_dir="tiny", ref_strength=0.5))
    assert (
        str(no_strength.value) == "--ref-strength 0.5: without an adapter nothing takes the vocal in. Give --adapter."
    )
