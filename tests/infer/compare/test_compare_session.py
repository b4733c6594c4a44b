"""A comparison and its evaluation in one session: what they open and hash, what they report, and how they stop."""

import json

import pytest

from common.audio.wave import write_audio
from infer.band.session import Session, SessionCancelledError, StepProgress
from infer.compare.compare import Comparison, compare
from infer.evaluate.evaluate import EvaluationRequest
from infer.evaluate.report import evaluate_into

KEYS = ("ann", "ben")


@pytest.fixture
def comparison(tmp_path, make_voice, adapter) -> Comparison:
    """Two vocals with an adapter at two weights, and the true bands beside the vocals."""
    for key, seconds in zip(KEYS, (0.9, 1.1), strict=True):
        for part, wave in (("vocal", make_voice(seconds, 48_000)), ("inst", make_voice(seconds, 48_000)[:, ::-1])):
            write_audio(tmp_path / f"{key}_{part}.wav", wave, 48_000)
    items = [{"key": key, "vocal_path": f"{key}_vocal.wav", "prompt": "piano"} for key in KEYS]
    (tmp_path / "test_set.json").write_text(json.dumps(items))
    (tmp_path / "half.json").write_text(json.dumps({"lora_path": str(adapter), "lora_weight": 0.4}))
    return Comparison(
        test_set=tmp_path / "test_set.json",
        adapters=(adapter, tmp_path / "half.json"),
        output_dir=tmp_path / "out",
        infer_steps=1,
        device="cpu",
    )


def evaluation(comparison: Comparison, tmp_path) -> EvaluationRequest:
    bands = comparison.output_dir / "models" / "half"
    return EvaluationRequest(items=bands, truth=tmp_path, checkpoint_dir="tiny")


def cards(comparison: Comparison) -> dict[str, int]:
    """When the card of each output was written."""
    models = comparison.output_dir / "models"
    return {f"{path.parent.relative_to(models)}": path.stat().st_mtime_ns for path in models.rglob("take.card")}


def test_nothing_is_opened_or_hashed_twice_and_progress_is_reported_by_step_and_by_band(
    comparison, tmp_path, adapter, opened, hashed
):
    said: list[StepProgress] = []
    session = Session(on_progress=said.append)
    compare(comparison, session)
    bands = [(step.done, step.total, step.note) for step in said if step.task == "comparing" and step.note]
    assert bands == [(1, 4, "adapter, ann"), (2, 4, "adapter, ben"), (3, 4, "half, ann"), (4, 4, "half, ben")]
    assert [(step.done, step.total) for step in said if step.task == "sampling" and step.done] == [(1, 1)] * 4
    said.clear()
    evaluate_into(tmp_path / "report", evaluation(comparison, tmp_path), session)
    assert said == [StepProgress("evaluating", number, 2, key) for number, key in enumerate(KEYS, start=1)]
    assert set(opened.values()) == {1}
    assert len(opened) == 4
    files = {*adapter.iterdir(), *(tmp_path / f"{key}_vocal.wav" for key in KEYS)}
    assert set(hashed) >= files
    assert set(hashed.values()) == {1}


def test_a_comparison_that_is_cancelled_keeps_what_is_finished_and_goes_on_from_there(comparison):
    said: list[StepProgress] = []
    with pytest.raises(SessionCancelledError):
        compare(comparison, Session(on_progress=said.append, is_cancelled=lambda: _finished(said) == 1))
    before = cards(comparison)
    assert list(before) == ["adapter/ann"]
    assert not (comparison.output_dir / "comparison.html").exists()
    compare(comparison)
    after = cards(comparison)
    assert after.keys() == {f"{model}/{key}" for model in ("adapter", "half") for key in KEYS}
    assert after["adapter/ann"] == before["adapter/ann"]


def test_a_comparison_is_cancelled_between_the_steps_of_a_band(comparison):
    said: list[StepProgress] = []
    with pytest.raises(SessionCancelledError):
        compare(comparison, Session(on_progress=said.append, is_cancelled=lambda: _sampled(said) == 2))
    assert list(cards(comparison)) == ["adapter/ann"]
    assert not list((comparison.output_dir / "models" / "adapter").glob("ben/*.wav"))


def test_an_evaluation_that_is_cancelled_writes_no_report(comparison, make_voice, tmp_path):
    for key in KEYS:
        write_audio(
            comparison.output_dir / "models" / "half" / f"{key}_accompaniment.wav", make_voice(0.8, 48_000), 48_000
        )
    said: list[StepProgress] = []
    session = Session(on_progress=said.append, is_cancelled=lambda: len(said) == 1)
    with pytest.raises(SessionCancelledError):
        evaluate_into(tmp_path / "report", evaluation(comparison, tmp_path), session)
    assert not list((tmp_path / "report").glob("*"))


def _finished(said: list[StepProgress]) -> int:
    """Bands that are reported as made."""
    return max((step.done for step in said if step.task == "comparing"), default=0)


def _sampled(said: list[StepProgress]) -> int:
    """Sampling steps over all bands; a call that opens a window counts none."""
    return sum(step.done for step in said if step.task == "sampling")
