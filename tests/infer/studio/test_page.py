"""The studio's page in a real Chromium, whose microphone is a file: sung, made, switched, rated, kept."""

import base64
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from scipy import signal

from common.audio.wave import write_audio

BLOCK_SECONDS = 0.01
AXE = Path(__file__).with_name("axe.min.js")
LISTEN = """async ([name, wait]) => {
  const player = window.studioPlayer, context = player.context;
  const analyser = new AnalyserNode(context, { fftSize: 32768 });
  player.master.connect(analyser);
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  await pause(700);
  const before = player.selected;
  player.select(name);
  await pause(wait);
  const played = new Float32Array(analyser.fftSize);
  analyser.getFloatTimeDomainData(played);
  const position = player.position();
  player.master.disconnect(analyser);
  const mono = (of) => {
    const { buffer, gain } = player.tracks.get(of);
    const channels = [...Array(buffer.numberOfChannels).keys()].map((at) => buffer.getChannelData(at));
    return channels[0].map((_, at) => gain * channels.reduce((sum, one) => sum + one[at], 0) / channels.length);
  };
  const packed = (floats) => {
    const bytes = new Uint8Array(floats.buffer), pieces = [];
    for (let at = 0; at < bytes.length; at += 32768) {
      pieces.push(String.fromCharCode(...bytes.subarray(at, at + 32768)));
    }
    return btoa(pieces.join(""));
  };
  const takes = { before: packed(mono(before)), after: packed(mono(name)) };
  return { played: packed(played), position, rate: context.sampleRate, ...takes };
}"""
"""What comes out of the player some milliseconds after a switch, where it says that it is, and both takes."""
DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "audio/wav" }));
  window.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def singer(chromium: Callable[..., Browser], sung_file: Path) -> Iterator[Browser]:
    """A browser whose microphone is the sung file, again and again."""
    fake = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    file = f"--use-file-for-fake-audio-capture={sung_file}"
    browser = chromium(*fake, file, "--autoplay-policy=no-user-gesture-required")
    yield browser
    browser.close()


@pytest.fixture
def open_page(singer: Browser, studio) -> Iterator[Callable[..., Page]]:
    """open_page(session, locale="ja-JP") is the page, ready; what its scripts complain of fails the test."""
    contexts, complaints = [], []

    def opened(session: str = "", **options: Any) -> Page:
        context = singer.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(f"{studio.address}#{session}")
        page.wait_for_selector("html[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def made(studio, sung_file) -> str:
    """A session of three takes."""
    session = studio.bring(sung_file)
    assert studio.order(session, takes=3, steps=2, prompt="piano, <b>bold</b>")["state"] == "finished"
    return session


def test_a_person_sings_and_hears_three_takes(open_page, studio):
    page = open_page()
    page.fill("#count-in-tempo", "240")
    page.click("#record")
    expect(page.locator("#record")).to_have_text("Stop")
    expect(page.locator("#recorded")).to_have_text("0:02")
    expect(page.locator("#meter")).not_to_have_attribute("aria-valuenow", "-60")
    page.keyboard.press("r")
    expect(page.locator("#recording")).to_be_visible()
    expect(page.get_by_label("Key", exact=True)).to_have_value("A minor")
    tempo = page.get_by_label("Tempo", exact=True)
    measured, bars = float(tempo.input_value()), page.locator("#bars li").count()
    page.get_by_label("Double the tempo").click()
    expect(page.locator("#bars li").nth(bars)).to_be_attached()
    assert float(tempo.input_value()) == pytest.approx(2 * measured, abs=0.2)
    page.locator("#bars button").nth(1).click()
    page.get_by_label("Chords of bar 2").fill("Dm . F .")
    page.keyboard.press("Enter")
    expect(page.locator("#bars button").nth(1)).to_have_text("Dm F")
    page.get_by_label("First downbeat (s)").fill("0.3")
    page.get_by_label("First downbeat (s)").blur()
    expect(page.locator("#sheet-text")).to_have_value(re.compile(r"offset: -\d\.\d+\n\|"))
    page.fill("#steps", "2")
    page.click("#generate")
    takes = page.locator(".take")
    expect(takes).to_have_count(3)
    expect(page.locator("[data-state=finished]")).to_have_text("3 takes are ready")
    session = page.evaluate("location.hash").removeprefix("#")
    prompt = studio.ask("GET", f"/api/sessions/{session}").said["prompt"]
    told = re.fullmatch(r"piano, drums, (\d+)bpm", prompt)
    assert told is not None, prompt
    assert int(told[1]) == pytest.approx(float(tempo.input_value()), abs=0.6)  # the field shows one decimal
    expect(page.locator("#estimate")).to_have_text(re.compile(r"about \d+ s"))


def test_a_dropped_file_is_taken_and_its_name_is_text(open_page, sung_file):
    page = open_page()
    content = base64.b64encode(sung_file.read_bytes()).decode()
    page.evaluate(DROP, ["<img src=x onerror=alert(1)>.wav", content])
    expect(page.locator("#recording-name")).to_have_text("<img src=x onerror=alert(1)>.wav")
    assert page.locator("#recording-name img").count() == 0
    expect(page.locator("#voice-wave canvas").first).to_be_attached()
    assert page.locator("#voice-wave").bounding_box()["height"] > 60


def test_a_switch_while_it_plays_keeps_the_place(open_page, studio, make_sung, tmp_path):
    """Measured on what comes out: the place within 50 ms of what the player says, and no gap."""
    write_audio(tmp_path / "long.wav", make_sung(8.0), 48_000)
    session = studio.bring(tmp_path / "long.wav")
    studio.order(session, takes=2, steps=1)
    page = open_page(session)
    expect(page.locator(".take")).to_have_count(2)
    page.click("#mute")
    page.click("#play")
    for name in ("take-01", "take-02"):
        got = page.evaluate(LISTEN, [name, 250])
        rate = got["rate"]
        waves = {key: np.frombuffer(base64.b64decode(got[key]), np.float32) for key in ("played", "before", "after")}
        played, take = waves["played"], waves["after"]
        end = played[-round(0.12 * rate) :]
        fits = signal.correlate(take, end, "valid") / np.linalg.norm(end)
        energies = np.sqrt(np.maximum(signal.convolve(take**2, np.ones(end.size), "valid"), 1e-9))
        best = int((fits / energies).argmax())
        assert (fits / energies)[best] > 0.98, name
        assert abs((best + end.size) / rate - got["position"]) < 0.05, name
        assert gaps(waves, rate, best + end.size) == [], name
    page.click("#play")
    page.fill("#part-from", "2")
    page.fill("#part-to", "5")
    page.click("#again")
    expect(page.locator("[data-take=take-03] .about")).to_contain_text("0:02 to 0:05 made anew of Take 2")


def gaps(waves: dict[str, np.ndarray], rate: int, end: int) -> list[int]:
    """Blocks about the switch that are far quieter than both takes are at their place, which is before `end`."""
    size, played, found = round(BLOCK_SECONDS * rate), waves["played"], []
    for back in range(size, min(end, round(0.5 * rate)), size):
        at = end - back
        both = min(np.sqrt(np.mean(waves[name][at : at + size] ** 2)) for name in ("before", "after"))
        level = np.sqrt(np.mean(played[len(played) - back :][:size] ** 2))
        if both > 1e-4 and level < 0.3 * both:
            found.append(back)
    return found


def test_stars_blind_and_keys_and_nothing_is_lost_on_reload(open_page, studio, made):
    page = open_page(made)
    takes = page.locator(".take")
    expect(takes).to_have_count(3)
    page.locator("[data-take=take-02]").get_by_label("4 of 5").check()
    expect(page.locator("[data-take=take-02] .stars .on")).to_have_count(4)
    page.keyboard.press("2")
    expect(page.locator(".take.selected")).to_have_attribute("data-take", "take-02")
    page.keyboard.press("0")
    expect(page.locator("[data-source=voice]")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Space")
    expect(page.locator("#play")).to_have_text("Pause")
    page.keyboard.press("Space")
    expect(page.locator("#play")).to_have_text("Play")
    page.keyboard.press("b")
    expect(page.locator(".take h3")).to_have_text(["Take A", "Take B", "Take C"])
    for told in (".about", ".measures", "a"):
        expect(page.locator(f".take {told}")).to_have_count(0)
    page.keyboard.press("b")
    expect(page.locator(".take .about").first).to_contain_text("piano, <b>bold</b>")
    page.reload()
    expect(page.locator(".take")).to_have_count(3)
    expect(page.locator("[data-take=take-02] .stars .on")).to_have_count(4)
    assert studio.ask("GET", f"/api/sessions/{made}").said["takes"][1]["stars"] == 4


def test_a_part_is_looped_and_cut_and_all_is_downloaded(open_page, made, tmp_path):
    page = open_page(made)
    expect(page.locator(".take")).to_have_count(3)
    page.keyboard.press("l")
    expect(page.locator("#status")).to_contain_text("Choose a part first")
    page.fill("#part-from", "0.5")
    page.fill("#part-to", "1.7")
    page.locator("#part-to").blur()
    page.click("#loop")
    assert page.evaluate("window.studioPlayer.loop") == {"start": 0.5, "end": 1.7}
    page.click("#play")
    page.wait_for_timeout(1600)
    assert 0.5 <= page.evaluate("window.studioPlayer.position()") <= 1.7
    page.click("#play")
    with page.expect_download() as download:
        page.click("#zip")
    download.value.save_as(tmp_path / "all.zip")
    assert f"{made}/take-03_mix.wav" in zipfile.ZipFile(tmp_path / "all.zip").namelist()
    page.click("#cut")
    expect(page.locator("#measured")).to_contain_text("1.20 s")
    expect(page.locator(".take")).to_have_count(0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"viewport": {"width": 1200, "height": 900}}, "Make the band"),
        ({"viewport": {"width": 390, "height": 844}, "locale": "ja-JP", "color_scheme": "dark"}, "バンドを作る"),
    ],
    ids=["desktop", "phone"],
)
def test_the_page_fits_speaks_and_is_open_to_all(open_page, made, options, words):
    page = open_page(made, bypass_csp=True, **options)  # axe puts styles of its own into the page
    expect(page.locator(".take")).to_have_count(3)
    expect(page.locator("#generate")).to_have_text(words)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.lang") == options.get("locale", "en-US")[:2]
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then((found) => found.violations)")
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in serious] == []


def test_a_page_without_an_adapter_says_so(singer, open_studio):
    page = singer.new_page()
    page.goto(open_studio().address)
    expect(page.locator("#deaf")).to_contain_text("the band does not listen to your voice")
    expect(page.locator("#strength")).to_be_disabled()
    page.close()
