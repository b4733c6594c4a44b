"""docs/evaluation.md says what the page asks and what the report shows."""

from pathlib import Path

import pytest

from infer.compare.axes import AXES
from infer.evaluate.evaluate import SYSTEMS
from infer.evaluate.measures.sanity import Sanity, faults
from infer.evaluate.report import MEASURES, SET_MEASURES

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def row(name: str) -> str:
    return next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))


@pytest.mark.parametrize("name", AXES)
def test_an_axis_stands_there_with_what_its_scores_mean(name):
    axis = AXES[name]
    assert [cell.strip() for cell in row(name).split("|")[2:-1]] == [axis.low, axis.middle, axis.high]


def test_anchors_stand_there_in_their_order():
    table = PAGE.split("### Anchors")[1].split("###")[0]
    assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == list(SYSTEMS)


@pytest.mark.parametrize("measure", [*MEASURES, *SET_MEASURES], ids=lambda measure: measure.name)
def test_a_measure_is_explained(measure):
    assert f"`{measure.name}`" in PAGE


def test_every_fault_is_explained():
    broken = Sanity(
        length_error_seconds=1.0, clipped=0.1, dc_dbfs=-10.0, lufs=None, peak_dbfs=None, silent=1.0, coverage=None,
        rolloff_hz=None, flatness=0.5, stereo_correlation=None, over_vocal_db=10.0,
    )  # fmt: skip
    table = PAGE.split("| fault |")[1].split("\n\n")[0]
    assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == list(faults(broken))
