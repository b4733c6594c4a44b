import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from common.command import run
from demo.cli import app
from demo.pipeline import MODES, DemoArtifacts, DemoConfig, run_demo, summary, train
from demo.results import ANCHORS, GAINS, MEASURES
from models.adapters.adapter import read_card
from prep.made_up.folder import HELD_OUT_SEED

SHORT = DemoConfig(songs=3, held_out=2, seconds=3, train_steps=1, infer_steps=1)
VOICES = [f"song-{HELD_OUT_SEED + number}" for number in range(SHORT.held_out)]


@pytest.fixture(scope="module")
def command(tmp_path_factory, few_clips) -> Callable[..., DemoArtifacts]:
    """command(*arguments) runs backline-demo in a folder of this module, with less work, and gives what it made."""
    folder = tmp_path_factory.mktemp("demo")

    def typed(*arguments: str) -> DemoArtifacts:
        made: list[DemoArtifacts] = []

        def noted(out: Path, config: DemoConfig) -> DemoArtifacts:
            made.append(run_demo(folder / out, config))
            return made[0]

        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(folder)
            patched.setattr("demo.pipeline.DemoConfig", lambda: SHORT)
            patched.setattr("demo.pipeline.run_demo", noted)
            with pytest.raises(SystemExit) as stopped:
                run(app, arguments)
        assert stopped.value.code == 0
        return made[0]

    return typed


@pytest.fixture(scope="module")
def made(command) -> DemoArtifacts:
    """By the command of the README, from nothing."""
    return command()


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.wav")}


def test_every_voice_that_was_kept_away_gets_a_band_from_each(made):
    for name in (*MODES, "text2music"):
        for key in VOICES:
            vocal = soundfile.info(made.out / "held-out" / f"{key}_vocal.flac")
            for part in ("accompaniment", "mix"):
                info = soundfile.info(made.out / "comparison" / "models" / name / key / f"{key}_{part}.wav")
                assert (info.samplerate, info.channels) == (48_000, 2)
                assert info.frames == round(vocal.frames * 48_000 / vocal.samplerate)
    assert not [path for path in (made.out / "songs").iterdir() if str(HELD_OUT_SEED)[:4] in path.name]


def test_prompts_leave_tempo_and_key_to_the_voice(made):
    items = json.loads((made.out / "test_set.json").read_text(encoding="utf-8"))
    assert [item["key"] for item in items] == VOICES
    for item in items:
        told_of_song = (made.out / "held-out" / f"{item['key']}_prompt.txt").read_text(encoding="utf-8")
        for tag in ("bpm", "key"):
            assert tag in told_of_song
            assert tag not in item["prompt"]
        assert item["prompt"]


def test_the_table_holds_what_was_measured_of_each(made):
    head, *rows = [line.split("  ") for line in made.results.table.splitlines()]
    assert [cell.strip() for cell in head if cell.strip()] == [*MODES, *ANCHORS]
    titles = list((GAINS | MEASURES).values())
    assert [row[0] for row in rows] == titles
    shown = {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}
    for number, mode in enumerate(MODES):
        figures = read_card(made.adapters[mode]).validation
        for gain, title in GAINS.items():
            low, high = figures[f"{gain}_low"], figures[f"{gain}_high"]
            assert shown[title][number] == f"{figures[gain]:.3f} [{low:.3f}, {high:.3f}]"
        report = json.loads((made.results.reports[mode].with_name("evaluation.json")).read_text(encoding="utf-8"))
        means = {(mean["measure"], mean["system"]): mean["mean"] for mean in report["means"]}
        for measure, title in MEASURES.items():
            assert shown[title][number].startswith(f"{means[measure, 'result']['value']:.2f} [")


def test_the_page_opens_and_plays(made, browser):
    page = browser.new_page()
    page.goto(made.results.page.as_uri())
    page.wait_for_function("[...document.querySelectorAll('audio')].every((a) => a.readyState === 4)")
    page.keyboard.press("Space")
    page.wait_for_function("[...document.querySelectorAll('audio')].some((a) => !a.paused && a.currentTime > 0.2)")
    page.close()


def test_it_tells_what_was_made_and_what_comes_next(made):
    text = summary(made)
    assert made.results.table in text
    assert made.results.page.as_uri() in text
    for page in made.results.reports.values():
        assert str(page.relative_to(made.out)) in text
    for line in text.replace(str(made.out), "backline-demo").splitlines():
        assert len(line) <= 120 or line.lstrip().startswith("$") or line in made.results.table
    assert "$ prep build-shards my-songs/ shards/" in text


def test_a_second_run_trains_nothing_and_ends_the_same(made, command, capsys):
    before = {path: path.stat().st_mtime_ns for path in (made.out / "training").rglob("*.safetensors")}
    wavs = written(made.out)
    again = command("backline-demo/")
    assert again.adapters == made.adapters
    assert before == {path: path.stat().st_mtime_ns for path in (made.out / "training").rglob("*.safetensors")}
    assert written(made.out) == wavs
    said = capsys.readouterr()
    assert "image2image: trained already" in said.err
    assert said.out == summary(again) + "\n"


def test_a_longer_training_goes_on_where_the_shorter_ended(made, tmp_path):
    runs = shutil.copytree(made.out / "training", tmp_path / "longer")
    for mode in MODES:
        adapter = train(mode, made.out / "shards", runs, steps=2)
        assert adapter.parent == runs / f"tiny_{mode}/version_0/checkpoints"
        assert adapter.name.endswith("step=2_lora")
