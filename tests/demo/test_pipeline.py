import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.command import run
from demo.cli import app
from demo.pipeline import ADAPTER, DemoArtifacts, DemoConfig, run_demo, summary, train
from demo.results import ANOTHERS, FIT, IDEAL, MEASURES, SHIPPED_BANDS, SYSTEMS, TEXT2MUSIC, TRAINED_BANDS, verdict
from models.adapters.adapter import read_card
from models.adapters.lora import LORA_FILE
from prep.made_up.folder import HELD_OUT_SEED

SHORT = DemoConfig(voices=2, songs=3, seconds=3, train_steps=1, infer_steps=1)
VOICES = [f"song-{HELD_OUT_SEED + number}" for number in range(SHORT.voices)]


@pytest.fixture(scope="module")
def command(tmp_path_factory, few_clips, few_rounds) -> Callable[..., DemoArtifacts]:
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


def folder_of(made: DemoArtifacts, system: str, key: str) -> Path:
    return made.out / (system if system == TEXT2MUSIC else f"comparison/models/{system}") / key


def test_every_voice_gets_a_band_from_each_and_a_lead_sheet(made):
    for key in VOICES:
        vocal = soundfile.info(made.out / "voices" / f"{key}_vocal.flac")
        for system in (SHIPPED_BANDS, TRAINED_BANDS, TEXT2MUSIC):
            for part in ("accompaniment", "mix"):
                info = soundfile.info(folder_of(made, system, key) / f"{key}_{part}.wav")
                assert (info.samplerate, info.channels) == (48_000, 2)
                assert info.frames == round(vocal.frames * 48_000 / vocal.samplerate)
    assert not list((made.out / "voices").glob("*_lead_sheet.txt"))  # it is inferred, not looked up
    assert list((made.out / "comparison").rglob("*_lead_sheet.txt"))
    assert not [path for path in (made.out / "songs").iterdir() if str(HELD_OUT_SEED)[:4] in path.name]


def test_the_training_starts_from_the_shipped_adapter(made):
    assert read_card(made.adapter).init_shards_fingerprint == read_card(ADAPTER).shards_fingerprint


def test_prompts_leave_tempo_and_key_to_the_voice(made):
    items = json.loads((made.out / "test_set.json").read_text(encoding="utf-8"))
    assert [item["key"] for item in items] == VOICES
    for item in items:
        told_of_song = (made.out / "voices" / f"{item['key']}_prompt.txt").read_text(encoding="utf-8")
        for tag in ("bpm", "key"):
            assert tag in told_of_song
            assert tag not in item["prompt"]
        assert item["prompt"]


def test_the_table_holds_what_was_measured_of_each(made):
    head, *rows = [line.split("  ") for line in made.results.table.splitlines()]
    assert [cell.strip() for cell in head if cell.strip()] == list(SYSTEMS)
    shown = {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}
    assert list(shown) == list(MEASURES.values())
    for name, title in MEASURES.items():
        for system, cell in zip(SYSTEMS, shown[title], strict=True):
            values = made.results.measured[system].get(name)
            assert cell == "-" if values is None else cell.startswith(f"{values.mean():.2f} [")
    assert set(made.results.measured[IDEAL]) == {"key", "chords"}
    assert made.results.measured["true"]["key"].mean() == 1


@pytest.mark.parametrize(
    ("shipped", "trained", "said"),
    [
        (0.9, 0.9, ("follow the voice: the key is right for 7 of 8", "neither better nor worse")),
        (0.3, 0.9, ("do not surely follow the voice: the key is right for 2 of 8", "they fit better (+0.60)")),
        (0.9, 0.5, ("of the shipped adapter follow the voice", "they fit worse (-0.40)")),
    ],
)
def test_the_last_line_says_what_the_figures_say(shipped, trained, said):
    wobble = np.linspace(-0.05, 0.05, 8)
    values = {SHIPPED_BANDS: shipped, TRAINED_BANDS: trained, ANOTHERS: 0.31, TEXT2MUSIC: 0.3, "true": 0.95}
    measured = {
        system: dict.fromkeys(FIT, value + wobble[:: 1 if system != ANOTHERS else -1])
        for system, value in values.items()
    }
    line = verdict(measured)
    for words in said:
        assert words in line


def test_the_page_opens_and_plays(made, browser):
    page = browser.new_page()
    page.goto(made.page.as_uri())
    page.wait_for_function("[...document.querySelectorAll('audio')].every((a) => a.readyState === 4)")
    page.keyboard.press("Space")
    page.wait_for_function("[...document.querySelectorAll('audio')].some((a) => !a.paused && a.currentTime > 0.2)")
    page.close()


def test_it_tells_what_was_made_and_what_comes_next(made):
    text = summary(made)
    assert made.results.table in text
    assert made.page.as_uri() in text
    assert text.endswith(made.results.verdict)
    for line in text.replace(str(made.out), "backline-demo").splitlines():
        assert len(line) <= 120 or line.lstrip().startswith("$") or line in made.results.table + made.results.verdict
    assert "$ prep build-shards my-songs/ shards/" in text


def test_a_second_run_trains_nothing_and_ends_the_same(made, command, capsys):
    before = {path: path.stat().st_mtime_ns for path in (made.out / "training").rglob("*.safetensors")}
    wavs = written(made.out)
    again = command("backline-demo/")
    assert again.adapter == made.adapter
    assert before == {path: path.stat().st_mtime_ns for path in (made.out / "training").rglob("*.safetensors")}
    assert written(made.out) == wavs
    said = capsys.readouterr()
    assert "trained already" in said.err
    assert said.out == summary(again) + "\n"


def test_a_longer_training_goes_on_where_the_shorter_ended(made, tmp_path):
    runs = shutil.copytree(made.out / "training", tmp_path / "longer")
    adapter = train(made.out / "shards", runs, steps=2)
    assert adapter.parent == runs / "tiny_controlnet/version_0/checkpoints"
    assert adapter.name.endswith("step=2_lora")
    assert (adapter / LORA_FILE).read_bytes() != (ADAPTER / LORA_FILE).read_bytes()
