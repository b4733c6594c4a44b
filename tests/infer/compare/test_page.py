"""The page, driven in a real browser: a Chromium from PATH or BACKLINE_CHROMIUM."""

import json
import re
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from jinja2 import UndefinedError
from playwright.sync_api import Page, expect
from scipy import stats

from common.audio.wave import loudness_lufs, write_audio
from infer.audio.mixdown import MixdownSettings
from infer.compare.axes import AXES
from infer.compare.output import CARD, Output, Sound, describe, write_output
from infer.compare.page import Lane, PageRow, matched_volumes, page_data, write_page
from infer.compare.ratings import read_sheets, summarise
from infer.compare.templates import fill, inline_json
from infer.request.record import AdapterRecord, GenerationRecord, GenerationSettings, ResultRecord, VocalRecord
from models.adapters.conditioning import Conditioning
from models.flow.sampler import SamplerSettings

MODELS = ("image2image 0.5", 'half "<b>#%')
PROMPT = 'piano, </script><script>window.broken = 1</script>, <img src=x onerror="window.broken = 2">'
SAMPLES = 6
RATE_HZ = 48_000
SECONDS = 3.0


def tone(hz: float, level: float) -> np.ndarray:
    """[2, N]"""
    time = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    return np.tile(level * np.sin(2 * np.pi * hz * time), (2, 1)).astype(np.float32)


def sound(path: Path, hz: float, level: float) -> Sound:
    write_audio(path, tone(hz, level), RATE_HZ)
    return describe(path)


def record(key: str) -> GenerationRecord:
    return GenerationRecord(
        key=key,
        vocal=VocalRecord(seconds=SECONDS, file="me.wav"),
        prompt=PROMPT,
        lyrics="[verse]\n<i>la</i>",
        settings=GenerationSettings(
            ref_strength=0.5,
            lora_weights=(0.8,),
            sampler=SamplerSettings(),
            blend=None,
            mixdown=MixdownSettings(),
            seed=3,
            num_samples=1,
        ),
        adapters=(
            AdapterRecord(
                folder="a", sha256="a" * 64, step=20, conditioning=Conditioning(), shards_fingerprint="b" * 64
            ),
        ),
        reference=None,
        checkpoint_dir="tiny",
        base_fingerprint="c" * 64,
        device="cpu",
        dtype="float32",
        rate_hz=RATE_HZ,
        samples=round(SECONDS * RATE_HZ),
        results=(ResultRecord(seed=3, accompaniment="band.wav", mix="mix.wav"),),
        versions={},
    )


def made_output(folder: Path, key: str, level: float) -> Output:
    band, mix = sound(folder / "band.wav", 220, level), sound(folder / "mix.wav", 330, level)
    (folder / f"{key}.json").write_text(record(key).model_dump_json())
    output = Output(order=f"{key} {level}", record=f"{key}.json", band=band, mix=mix)
    write_output(folder, output)
    return output


@pytest.fixture(scope="session")
def comparison(tmp_path_factory) -> Path:
    """A folder as `infer compare` leaves it, of tones: the second model is 6 dB louder than the first."""
    out = tmp_path_factory.mktemp("a comparison")
    rows = []
    for number in range(SAMPLES):
        key = f"song {number} <u>"
        vocal = Lane(
            "vocal", out / "vocals" / key, Output(order=key, mix=sound(out / "vocals" / key / "v.flac", 440, 0.2))
        )
        folders = [out / "models" / name / key for name in MODELS]
        outputs = [made_output(folder, key, level) for folder, level in zip(folders, (0.1, 0.2), strict=True)]
        lanes = tuple(Lane(*lane) for lane in zip(MODELS, folders, outputs, strict=True))
        rows.append(PageRow(key, PROMPT, vocal, lanes))
    write_page(out, rows)
    return out


@pytest.fixture
def page(browser, comparison) -> Iterator[Page]:
    """The page as a rater sees it first; whatever it complains about fails the test."""
    context = browser.new_context()
    page = open_page(context.new_page(), comparison)
    yield page
    assert complaints(page) == []
    context.close()


def open_page(page: Page, comparison: Path) -> Page:
    page.add_init_script("window.complaints = []; addEventListener('error', (e) => complaints.push(e.message), true)")
    page.goto((comparison / "comparison.html").as_uri())
    await_sounds(page)
    return page


def await_sounds(page: Page) -> None:
    """Every clip of the sample that is shown can be played."""
    page.wait_for_function("[...document.querySelectorAll('audio')].every((a) => a.readyState === 4)")


def await_sample(page: Page, turn: int) -> None:
    """The sample of this turn, from 0, is shown."""
    expect(page.locator(".turn span")).to_have_text(f"Sample {turn + 1} of {SAMPLES}")


def show_names(page: Page) -> None:
    """The page reads them from a file first."""
    page.check("#mode [value=named]", force=True)
    expect(page.locator(".settings h3")).to_have_text(list(MODELS))


def hide_names(page: Page) -> None:
    page.check("#mode [value=blind]", force=True)
    expect(page.locator(".settings")).to_have_count(0)


def complaints(page: Page) -> list[str]:
    return page.evaluate("complaints")


def press(page: Page, keys: str) -> None:
    page.evaluate("document.activeElement.blur()")
    for key in keys.split():
        page.keyboard.press(key)


def audible(page: Page) -> list[dict]:
    """The clips that can be heard now."""
    script = (
        "({from: a.parentElement.dataset.lane, file: decodeURIComponent(a.src), at: a.currentTime, paused: a.paused})"
    )
    return page.evaluate(f"[...document.querySelectorAll('audio')].filter((a) => !a.muted).map((a) => {script})")


def json_of_names(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "names.js").read_text().partition(" = ")[2].rstrip(";\n"))


def read_lane(folder: Path) -> Output:
    return Output(**json.loads((folder / CARD).read_text()))


def owners(folder: Path) -> dict[str, str]:
    """Name of a file that a page plays -> the model that made it."""
    shown = json.loads(re.findall(r'id="data">(.*?)</script>', (folder / "comparison.html").read_text())[0])
    names = json_of_names(folder)
    return {
        Path(sound["audio"]).name: names["models"][model]
        for row, named in zip(shown["rows"], names["rows"], strict=True)
        for output, model in zip(row["outputs"], named["models"], strict=True)
        for sound in (output["band"], output["mix"])
    }


def letters(page: Page, folder: Path) -> dict[str, str]:
    """model -> its letter on the sample that is shown."""
    script = "(all) => all.map((a) => [a.parentElement.dataset.lane, a.src.split('/').pop()])"
    lanes, made_by = page.locator(".lane audio").evaluate_all(script), owners(folder)
    found = {made_by[name]: lane for lane, name in lanes if name in made_by}
    return {model: found[model] for model in MODELS}


def test_inlined_json_cannot_end_its_element():
    said = {"prompt": "</script><!--<script>&\u2028", "name": "ü"}
    assert not re.search("[<>&\u2028]", inline_json(said))
    assert json.loads(inline_json(said)) == said


def test_what_is_filled_in_is_not_looked_through():
    with pytest.raises(UndefinedError):
        fill("comparison.html", data="{}")
    assert "{{ script }}" in fill("comparison.html", data="{{ script }}", script="")


def test_volumes_bring_all_to_the_quietest(tmp_path):
    clips = [tone(300, level) for level in (0.05, 0.2, 0.4)]
    sounds = [Sound(audio="", wave="", mel="", seconds=SECONDS, lufs=loudness_lufs(clip, RATE_HZ)) for clip in clips]
    levels = [
        loudness_lufs(clip * np.float32(volume), RATE_HZ)
        for clip, volume in zip(clips, matched_volumes(sounds), strict=True)
    ]
    assert levels == pytest.approx([levels[0]] * 3, abs=0.02)
    silent = sounds[0].model_copy(update={"lufs": None})
    assert matched_volumes([silent, None, sounds[0]]) == [1.0, 1.0, 1.0]


def test_the_page_asks_for_nothing_outside_its_folder_wherever_that_lies(browser, comparison, tmp_path):
    moved = shutil.copytree(comparison, tmp_path / "moved")
    context = browser.new_context()
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    open_page(page, moved)
    for turn in range(1, SAMPLES):
        press(page, "]")
        await_sample(page, turn)
        await_sounds(page)
    assert complaints(page) == []
    context.close()
    assert len(asked) > SAMPLES * 6
    assert [url for url in asked if not url.startswith((moved.as_uri(), "data:,"))] == []


def test_progress_of_another_comparison_is_not_taken_up(tmp_path):
    rows = []
    for level in (0.1, 0.2):
        folder = tmp_path / "models" / "m" / "k"
        vocal = Lane(
            "vocal", tmp_path / "vocals", Output(order="v", mix=sound(tmp_path / "vocals" / "v.flac", 440, 0.1))
        )
        rows.append(PageRow("k", PROMPT, vocal, (Lane("m", folder, made_output(folder, "k", level)),)))
    first, again, other = (page_data(tmp_path, [row]).shown["id"] for row in (rows[0], rows[0], rows[1]))
    assert first == again != other


def test_what_names_and_prompts_say_is_text(page):
    assert page.evaluate("window.broken") is None
    expect(page.locator("h2")).to_have_text(re.compile("<u>$"))
    expect(page.locator(".tags li").nth(1)).to_have_text("</script><script>window.broken = 1</script>")
    show_names(page)
    page.locator(".lyrics summary").click()
    expect(page.locator(".lyrics p")).to_be_visible()
    expect(page.locator(".lyrics p")).to_contain_text("<i>la</i>")
    expect(page.locator("i, u, b")).to_have_count(0)


CHANGE_OVER = """(keys) => {
  const audible = () => [...document.querySelectorAll("audio")].filter((a) => !a.muted);
  return keys.map((key) => {
    const [before] = audible();
    const at = before.currentTime;
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    const after = audible();
    const lane = after[0].parentElement;
    const moved = after[0].currentTime - at;
    return {
      count: after.length, lane: lane.dataset.lane, shown: lane.matches(".selected"), moved, paused: after[0].paused,
    };
  });
}"""


def test_bands_change_over_at_the_same_moment(page):
    """Measured within one task of the page, so that a busy machine cannot blur it."""
    press(page, "Space")
    page.wait_for_function("[...document.querySelectorAll('audio')].some((a) => a.currentTime > 0.2)")
    for key, change in zip("abvab", page.evaluate(CHANGE_OVER, list("abvab")), strict=True):
        assert (change["count"], change["shown"], change["paused"]) == (1, True, False)
        assert change["lane"] == {"v": "Vocal"}.get(key, key.upper())
        assert abs(change["moved"]) < 0.04


def test_voice_or_band_alone_and_pause(page):
    kinds, play = page.locator(".lane.selected small"), page.locator("#play")
    expect(kinds).to_have_text(["with the voice"])
    with_voice = audible(page)
    press(page, "m")
    expect(kinds).to_have_text(["the band alone"])
    (band,) = audible(page)
    assert with_voice[0]["file"] != band["file"]
    press(page, "Space")
    expect(play).to_have_text("Pause")
    press(page, "Space")
    expect(play).to_have_text("Play")
    assert audible(page)[0]["paused"]


def test_pictures_and_arrows_seek(page):
    page.locator("[data-lane=B] .pictures").click(position={"x": 0, "y": 10})
    expect(page.locator(".lane.selected")).to_have_attribute("data-lane", "B")
    assert audible(page)[0]["from"] == "B"
    assert audible(page)[0]["at"] < 0.05
    press(page, "ArrowRight")
    expect(page.locator(".time")).to_have_text("0:03 / 0:03")
    assert audible(page)[0]["at"] == pytest.approx(SECONDS, abs=0.05)
    page.wait_for_function("[...document.querySelectorAll('.pictures img')].every((i) => i.naturalWidth === 1200)")


def test_loudness_is_matched(page, comparison):
    volumes = page.evaluate(
        "[...document.querySelectorAll('.lane audio')].map((a) => [a.src.split('/').pop(), a.volume])"
    )
    made_by = owners(comparison)
    of_models = {model: {v for name, v in volumes if made_by.get(name) == model} for model in MODELS}
    assert of_models[MODELS[0]] == {1.0}
    assert max(of_models[MODELS[1]]) == pytest.approx(0.5, abs=0.01)


def told_in(text: str) -> list[str]:
    """Models that a text names, plainly, escaped or in an address."""
    return [model for model in MODELS for form in (model, escape(model), quote(model)) if form in text]


def test_a_blind_page_holds_nothing_that_tells_whose_a_band_is(browser, comparison):
    """Not its text, markup or storage, nor what it asks for; and no place in its data is one model's."""
    context = browser.new_context()
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    open_page(page, comparison)
    for turn in range(SAMPLES):
        await_sample(page, turn)
        assert told_in(page.content()) == []
        assert page.evaluate("Object.keys(window).includes('backlineNames')") is False
        page.locator(".axis [value='3']").first.check(force=True)
        page.locator(".pair input").first.check(force=True)
        press(page, "m Space Space ]")
    assert told_in("\n".join(asked)) == []
    assert told_in(page.evaluate("JSON.stringify(localStorage)")) == []
    assert not [url for url in asked if "/models/" in url or "names" in url]
    assert told_in((comparison / "comparison.html").read_text()) == []
    assert "trained steps" not in page.content()
    first_of_rows = {sides["models"][0] for sides in json_of_names(comparison)["rows"]}
    assert first_of_rows == {0, 1}
    show_names(page)
    assert set(told_in(page.content())) == set(MODELS)
    hide_names(page)
    assert told_in(page.content()) == []
    context.close()


def test_names_are_kept_when_a_named_page_is_opened_again(page):
    show_names(page)
    page.reload()
    expect(page.locator(".settings h3")).to_have_text(list(MODELS))


def test_sounds_of_an_earlier_page_go_and_the_takes_stay(tmp_path, comparison):
    folder = shutil.copytree(comparison, tmp_path / "again")
    rows = json.loads((folder / "ratings_template.json").read_text())["ratings"]
    before = {path.name for path in (folder / "sounds").iterdir()}
    assert len(before) == SAMPLES * 2 * 6
    own = {f"{'a' * 20}.txt", "my voice.wav", f"{'b' * 19}.wav"}
    for name in own:
        (folder / "sounds" / name).touch()
    (folder / "sounds" / "more").mkdir()
    (key,) = {row["sample_id"] for row in rows[:2]}
    lanes = [Lane(name, folder / "models" / name / key, read_lane(folder / "models" / name / key)) for name in MODELS]
    vocal = Lane("vocal", folder / "vocals" / key, Output(order=key, mix=lanes[0].output.mix))
    write_page(folder, [PageRow(key, PROMPT, vocal, tuple(lanes))])
    after = {path.name for path in (folder / "sounds").iterdir()}
    assert own | {"more"} <= after
    kept = after - own - {"more"}
    assert kept < before
    assert len(kept) == 2 * 6
    assert (folder / "models" / MODELS[0] / key / "band.wav").is_file()


def test_a_blind_rater_sees_no_name_and_a_seed_makes_the_order(page, comparison):
    orders = {}
    for seed in ("1", "2", "3", "1"):
        page.fill("#seed", seed)
        press(page, "Shift")
        seen = []
        for number in range(SAMPLES):
            await_sample(page, number)
            assert not any(model in page.locator("body").inner_text() for model in MODELS)
            seen.append((page.locator("h2").inner_text(), tuple(letters(page, comparison).items())))
            press(page, "]" * (number < SAMPLES - 1))
        assert orders.setdefault(seed, seen) == seen
        assert len({key for key, _ in seen}) == SAMPLES
    assert orders["1"] != orders["2"] != orders["3"]
    assert len({sides for seen in orders.values() for _, sides in seen}) == 2  # each model is A somewhere


def test_answers_outlive_a_reload(page):
    page.fill("#rater", "Ann")
    press(page, "a 4 3 ,")
    page.locator("[data-card=B] textarea").fill("too loud\nat first")
    expect(page.locator("#count")).to_have_text(f"3 of {SAMPLES * 11} answers")
    kept = [page.locator(":checked").evaluate_all("(all) => all.map((one) => one.name + one.value)")]
    page.reload()
    expect(page.locator("#count")).to_have_text(f"3 of {SAMPLES * 11} answers")
    expect(page.locator("#rater")).to_have_value("Ann")
    expect(page.locator("[data-card=B] textarea")).to_have_value("too loud\nat first")
    kept.append(page.locator(":checked").evaluate_all("(all) => all.map((one) => one.name + one.value)"))
    assert kept[0] == kept[1]


def test_an_export_needs_a_name(page):
    page.click("#export")
    expect(page.locator("#status")).to_have_text("Write your name first, so that your sheet can be told apart.")
    expect(page.locator("#rater")).to_be_focused()


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_nothing_is_wider_than_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_function(f"window.innerWidth === {width}")
    for show in (hide_names, show_names):
        show(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width


def rate(page: Page, comparison: Path, rater: int, scores: np.ndarray, folder: Path) -> Path:
    """Rate everything by key as `scores` [sample, model, axis] say, and prefer the better first axis; the export."""
    page.fill("#rater", f"rater {rater}")
    page.fill("#seed", str(100 + rater))
    press(page, "Shift")
    for turn in range(SAMPLES):
        await_sample(page, turn)
        of_sample = scores[int(page.locator("h2").inner_text().split()[1])]
        sides = letters(page, comparison)
        for place, model in enumerate(MODELS):
            press(page, f"{sides[model].lower()} {' '.join(map(str, of_sample[place]))}")
        lead = int(of_sample[0, 0]) - int(of_sample[1, 0])
        better = MODELS[0] if lead > 0 else MODELS[1]
        press(page, "-" if lead == 0 else {"A": ",", "B": "."}[sides[better]])
        press(page, "]" * (turn < SAMPLES - 1))
    with page.expect_download() as download:
        page.click("#export")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_three_raters_exports_give_the_statistics_of_what_they_pressed(browser, comparison, tmp_path):
    scores = np.random.default_rng(5).integers(1, 6, size=(3, SAMPLES, 2, 5))
    paths = []
    for rater in range(3):
        context = browser.new_context()
        paths.append(rate(open_page(context.new_page(), comparison), comparison, rater, scores[rater], tmp_path))
        context.close()
    assert [path.name for path in paths] == [f"ratings_rater_{rater}.json" for rater in range(3)]
    assert {file.seed for file in read_sheets(paths)} == {100, 101, 102}
    summary = summarise(read_sheets(paths))
    assert summary.raters == ("rater 0", "rater 1", "rater 2")
    means = {(mean.axis, mean.model): mean.mean.value for mean in summary.means}
    tests = {test.axis: test for test in summary.differences}
    for place, axis in enumerate(AXES):
        for model, of_model in enumerate(MODELS):
            assert means[axis, of_model] == pytest.approx(scores[:, :, model, place].mean())
        sums = scores[..., place].sum(axis=0)
        first, second = (MODELS.index(name) for name in (tests[axis].first, tests[axis].second))
        assert tests[axis].p == pytest.approx(stats.wilcoxon(sums[:, first] - sums[:, second]).pvalue)
    lead = scores[:, :, 0, 0] - scores[:, :, 1, 0]
    (rate_of,) = summary.win_rates
    wins = {rate_of.first: rate_of.wins, rate_of.second: rate_of.losses}
    assert [wins[model] for model in MODELS] == [(lead > 0).sum(), (lead < 0).sum()]
    assert rate_of.ties == (lead == 0).sum()
