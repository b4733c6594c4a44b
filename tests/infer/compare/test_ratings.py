import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from common.command import run
from infer.cli import app
from infer.compare.axes import AXES
from infer.compare.ratings import (
    Interval,
    SheetFile,
    Vote,
    bootstrap_mean,
    holm,
    krippendorff_alpha,
    read_sheets,
    signed_rank_p,
    summarise,
    win_rate,
)
from infer.compare.ratings_report import write_report

OLDER_SHEET = {
    "sample_id": "song001",
    "model": "image2image_0.5",
    "scores": {
        "audio_quality": 4,
        "vocal_alignment": 5,
        "prompt_adherence": 3,
        "musicality": 4,
        "vocal_leakage": 4,
    },
    "comments": "The beat is right; the piano is not quite what was asked.",
    "overall": 4.0,
}


def outcome(capsys, *arguments):
    """Exit code, stdout and stderr of `infer ratings ...`."""
    with pytest.raises(SystemExit) as stopped:
        run(app, ["ratings", *(str(argument) for argument in arguments)])
    printed = capsys.readouterr()
    return stopped.value.code, printed.out, printed.err


def sheet(sample: str, model: str, score: int) -> dict[str, Any]:
    return {"sample_id": sample, "model": model, "scores": dict.fromkeys(AXES, score)}


def vote(better: str | None) -> Vote:
    return Vote(sample_id="s", models=("a", "b"), better=better)


@pytest.fixture
def judged(tmp_path):
    """Three raters on eight samples and three models: files, and the scores [rater, sample, model]."""
    scores = np.random.default_rng(3).integers(1, 6, size=(3, 8, 3))
    paths = []
    for rater, of_rater in enumerate(scores):
        ratings = [sheet(f"s{s}", "abc"[m], int(of_rater[s, m])) for s in range(8) for m in range(3)]
        paths.append(tmp_path / f"rater{rater}.json")
        paths[-1].write_text(json.dumps({"rater": f"r{rater}", "seed": rater, "ratings": ratings, "pairs": []}))
    return paths, scores


def test_means_and_tests_are_those_of_scipy(judged):
    paths, scores = judged
    summary = summarise(read_sheets(paths))
    units = scores.mean(axis=0)  # [sample, model]
    means = {(mean.axis, mean.model): mean for mean in summary.means}
    for place, model in enumerate("abc"):
        theirs = stats.bootstrap(
            (units[:, place],), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        ours = means["musicality", model].mean
        assert ours.value == pytest.approx(units[:, place].mean())
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.06)
        assert means["overall", model].mean == ours  # every axis has the same scores here
    found = {(test.first, test.second): test for test in summary.differences if test.axis == "musicality"}
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    sums = dict(zip("abc", scores.sum(axis=0).T, strict=True))  # whole numbers, so that ties are exact
    theirs = [stats.wilcoxon(sums[first] - sums[second]).pvalue for first, second in pairs]
    assert [found[pair].p for pair in pairs] == pytest.approx(theirs)
    assert [found[pair].p_holm for pair in pairs] == pytest.approx(holm(theirs))
    assert summary.raters == ("r0", "r1", "r2")
    assert summary.warnings == ()


def test_holm_multiplies_by_what_is_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_no_difference_is_no_evidence():
    assert signed_rank_p(np.zeros(9)) == 1.0
    assert signed_rank_p(np.array([1e-16, 1.0, -1.0])) == signed_rank_p(np.array([0.0, 1.0, -1.0]))


def test_the_interval_of_equal_scores_is_a_point():
    assert bootstrap_mean([3.0, 3.0, 3.0]) == Interval(3.0, 3.0, 3.0)


def test_win_rates_count_what_prefers_one():
    counted = win_rate([vote("a")] * 7 + [vote("b")] * 3 + [vote(None)] * 2, "a", "b")
    assert (counted.wins, counted.losses, counted.ties) == (7, 3, 2)
    bounds = stats.binomtest(7, 10).proportion_ci(method="wilson")
    assert counted.rate == Interval(0.7, bounds.low, bounds.high)
    assert win_rate([vote(None)], "a", "b").rate is None


def test_alpha_of_krippendorffs_own_example():
    """Four observers, twelve units, gaps: his ordinal alpha is 0.815."""
    observers = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    units = [[float(given) for given in unit if given != "."] for unit in zip(*observers, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.815, abs=5e-4)


def test_alpha_at_its_ends():
    assert krippendorff_alpha([[1, 1], [3, 3], [5, 5, 5]]) == pytest.approx(1.0)
    assert krippendorff_alpha([[1, 5], [5, 1]]) == pytest.approx(-0.5)
    assert krippendorff_alpha([[1], [4]]) is None
    assert krippendorff_alpha([[2, 2], [2, 2]]) is None


def test_a_sheet_in_the_older_spelling_is_read(tmp_path, capsys):
    (tmp_path / "ann.json").write_text(json.dumps(OLDER_SHEET))
    (tmp_path / "ben.json").write_text(json.dumps([OLDER_SHEET, {**OLDER_SHEET, "sample_id": "song002"}]))
    code, out, err = outcome(capsys, tmp_path / "ann.json", tmp_path / "ben.json", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["raters"] == ["ann", "ben"]
    assert {mean["axis"]: mean["mean"]["value"] for mean in found["means"]}["overall"] == 4.0
    assert err.splitlines() == [
        "warning: 2 raters: fewer than 3; ask more before you conclude.",
        "warning: 2 samples: Wilcoxon's test cannot go below p = 0.5; rate at least 6.",
    ]


def test_the_table_and_the_page_say_the_same(judged, tmp_path, capsys):
    paths, scores = judged
    code, out, err = outcome(capsys, *paths, "--output-dir", tmp_path / "report")
    assert (code, err) == (0, f"wrote {tmp_path / 'report' / 'ratings.html'}\n")
    assert out.startswith("3 raters, 3 models, 8 samples\n\nMeans, with 95 % bootstrap intervals over samples\naxis")
    page = (tmp_path / "report" / "ratings.html").read_text()
    mean = f"{scores[:, :, 0].mean():.2f}"
    assert f"musicality        a      {mean}" in out
    assert f"<td class='left'>musicality</td><td class='left'>a</td><td>{mean}</td>" in page
    assert "Holm" in out
    assert "alpha" in page


def test_names_are_escaped_in_the_report(tmp_path):
    files = [SheetFile.model_validate({"rater": "r", "ratings": [sheet("s", "<script>alert(1)</script>", 3)]})]
    page = write_report(summarise(files), tmp_path).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not valid JSON (Expecting value: line 1 column 2 (char 1))."),
        ("3", "holds a int; a sheet file is what comparison.html exports."),
        (
            json.dumps({"ratings": [sheet("s", "m", 6)]}),
            "ratings.0.scores.audio_quality: Input should be less than or equal to 5, got 6 (and 4 more)",
        ),
        (json.dumps([{"sample_id": "s", "model": "m"}]), "ratings.0.scores: Field required"),
        (json.dumps({"ratings": [], "raters": 3}), "unknown key raters; did you mean rater?"),
        (
            json.dumps({"pairs": [{"sample_id": "s", "models": ["a", "b"], "better": "c"}]}),
            "pairs.0: better is 'c', which is not one of two ('a', 'b').",
        ),
        (
            json.dumps([sheet("s", "m", 1), sheet("s", "m", 2)]),
            "rater bad rates m on s twice (also in {path}). Leave one of them out.",
        ),
    ],
)
def test_a_bad_sheet_is_one_line_with_file_and_field(tmp_path, capsys, content, message):
    path = tmp_path / "bad.json"
    path.write_text(content)
    code, out, err = outcome(capsys, path)
    assert (code, out) == (2, "")
    assert err == f"error: {path}: {message.format(path=path)}\n"


def test_one_rater_in_two_files_may_not_rate_a_thing_twice(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"rater": "ann", "ratings": [sheet("s", "m", 4)]}))
    code, _, err = outcome(capsys, tmp_path / "one.json", tmp_path / "two.json")
    also = tmp_path / "one.json"
    assert code == 2
    assert err == (
        f"error: {tmp_path / 'two.json'}: rater ann rates m on s twice (also in {also}). Leave one of them out.\n"
    )


def test_an_empty_template_says_that_nothing_is_rated(tmp_path, capsys):
    blank = {**sheet("s", "m", 1), "scores": dict.fromkeys(AXES), "comments": "", "overall": None}
    (tmp_path / "t.json").write_text(json.dumps({"rater": "", "seed": None, "ratings": [blank], "pairs": []}))
    code, _, err = outcome(capsys, tmp_path / "t.json")
    assert code == 2
    assert err == "error: nothing is rated in these files. Rate in comparison.html and export from there.\n"
