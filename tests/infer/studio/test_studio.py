"""What the studio makes and keeps: sessions, takes, ratings, and an end to each order."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest

from common.audio.wave import read_audio
from common.errors import UserError
from infer.band.generate import generate
from infer.compare.inputs import read_test_set
from infer.evaluate.items import read_items
from infer.request.record import GenerationRecord
from infer.request.request import GenerationRequest
from infer.studio.folders import SessionFolders
from infer.studio.serve import OpenStudio, StudioRequest
from infer.studio.takes import BandSource
from infer.studio.voice import analyse_voice, silences_of
from models.adapters.conditioning import Conditioning, LeadSheetShape

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def made(studio, sung_file) -> str:
    """A session of two takes."""
    session = studio.bring(sung_file)
    job = studio.order(session, takes=2, seed=5, prompt="piano", strength=0.5, weight=0.7)
    assert (job["state"], job["takes"]) == ("finished", ["take-01", "take-02"])
    return session


def record_of(folder: Path, take: str) -> GenerationRecord:
    return GenerationRecord(**json.loads((folder / f"{take}.json").read_text()))


def test_what_was_sung_is_measured(sung_file):
    voice = analyse_voice(sung_file)
    assert (voice.low_note, voice.high_note) == ("A3", "E4")
    assert voice.seconds == pytest.approx(2.4)


def test_silences_are_stretches_that_are_long_enough():
    active = np.ones(400, dtype=bool)
    active[100:103] = active[200:300] = False
    assert silences_of(active, 400 * 512 / 22_050) == (
        (pytest.approx(4.644, abs=1e-3), pytest.approx(6.966, abs=1e-3)),
    )


def test_takes_are_what_infer_generate_makes_from_their_records(studio, made, adapter, tmp_path):
    folder = studio.folder / made
    for take, seed in (("take-01", 5), ("take-02", 6)):
        record = record_of(folder, take)
        again = generate(
            GenerationRequest(
                adapters=(adapter,),
                vocal=folder / "voice_vocal.wav",
                prompt=record.prompt,
                ref_strength=record.settings.ref_strength,
                lora_weights=record.settings.lora_weights,
                infer_steps=record.settings.sampler.steps,
                seed=seed,
                output_dir=tmp_path / take,
                device="cpu",
            )
        )
        assert again.accompaniments[0].read_bytes() == (folder / f"{take}_accompaniment.wav").read_bytes()
        assert again.mixes[0].read_bytes() == (folder / f"{take}_mix.wav").read_bytes()


def test_the_lead_sheet_of_a_take_is_kept_beside_it(open_studio, make_adapter, sung_file):
    """It is inferred from the voice, where an adapter takes one."""
    taking = Conditioning(lead_sheet=LeadSheetShape(depth=1, dim=32, injection_layers=(0,)))
    studio = open_studio(adapters=(make_adapter(taking),))
    session = studio.bring(sung_file)
    assert studio.order(session)["takes"] == ["take-01"]
    folder = studio.folder / session
    sheet = record_of(folder, "take-01").lead_sheet
    assert sheet is not None
    assert sheet == (folder / "take-01_lead_sheet.txt").read_text() == (folder / "voice_lead_sheet.txt").read_text()
    assert "key: " in sheet
    assert studio.ask("POST", f"/api/sessions/{session}/lead_sheet", {"key": "F# major"}).status == 200
    region = {"take": "take-01", "start": 0.5, "end": 1.0}
    assert studio.order(session, again=region)["takes"] == ["take-02"]
    changed = record_of(folder, "take-02").lead_sheet
    assert changed == (folder / "voice_lead_sheet.txt").read_text() != sheet
    measures = studio.ask("GET", f"/api/sessions/{session}").said["takes"][0]["measures"]
    assert measures["sheet_tempo"] == pytest.approx(120, rel=0.04)
    assert 0 <= measures["beats"] <= 1
    assert 0 <= measures["chance_beats"] < 0.5
    assert studio.ask("GET", "/api/studio").said["memory_bytes"] > 100e6


def test_a_region_of_a_take_is_made_anew_and_the_rest_is_kept(studio, sung_file):
    session = studio.bring(sung_file)
    studio.order(session, seed=5)
    folder, region = studio.folder / session, {"take": "take-01", "start": 0.5, "end": 1.25}
    assert studio.order(session, seed=6, again=region)["takes"] == ["take-02"]
    before, now = (read_audio(folder / f"take-0{number}_accompaniment.wav").samples for number in (1, 2))
    changed = np.flatnonzero((before != now).any(axis=0))
    assert (changed[0] >= 24_000, changed[-1] < 60_000) == (True, True)
    assert changed.size > 30_000
    views = studio.ask("GET", f"/api/sessions/{session}").said["takes"]
    assert [view["again"] for view in views] == [None, region]
    for wrong, status, error in (
        (
            {"end": 2.5},
            400,
            f"{folder / 'take-01.json'}: from 0.5 to 2.5 s is no part of it. Take a start below the end, both within "
            "its 2.4 s.",
        ),
        ({"take": "take-09"}, 404, "there is no such take."),
        ({"take": "../take-01"}, 404, "there is no such take."),
    ):
        answer = studio.ask("POST", f"/api/sessions/{session}/takes", {"again": region | wrong})
        assert (answer.status, answer.error) == (status, error)


def test_a_session_is_what_evaluate_and_compare_take(studio, made):
    folder = studio.folder / made
    items = read_items(folder, truth=None, text2music=None)
    assert [(item.key, item.vocal) for item in items] == [
        (take, folder / "voice_vocal.wav") for take in ("take-01", "take-02")
    ]
    (sample,) = read_test_set(folder / "test_set.json")
    assert (sample.vocal_path, sample.prompt) == (folder / "voice_vocal.wav", "piano")


def test_a_take_is_measured_beside_its_nulls(studio, made):
    take, _ = studio.ask("GET", f"/api/sessions/{made}").said["takes"]
    measures = take["measures"]
    assert 1 <= measures["rank"] <= 12
    assert -1 < measures["leak"] < 1
    assert measures["lufs"] < 0
    assert (take["seed"], take["strength"], take["weight"], take["steps"]) == (5, 0.5, 0.7, 2)


def test_sounds_records_and_ranges_are_served(studio, made):
    folder, at = studio.folder / made, f"/api/sessions/{made}/takes/take-01"
    assert studio.ask("GET", f"{at}/sound").body == (folder / "take-01_accompaniment.wav").read_bytes()
    assert studio.ask("GET", f"{at}/mix").body == (folder / "take-01_mix.wav").read_bytes()
    assert studio.ask("GET", f"{at}/record").said["key"] == "voice"
    part = studio.ask("GET", f"{at}/sound", range="bytes=4-7")
    assert (part.status, len(part.body)) == (206, 4)


def test_stars_are_kept(studio, made):
    for stars in (4, 0, 3):
        assert studio.ask("POST", f"/api/sessions/{made}/takes/take-02/stars", {"stars": stars}).said == {
            "stars": stars
        }
        assert [take["stars"] for take in studio.ask("GET", f"/api/sessions/{made}").said["takes"]] == [0, stars]
    assert (
        studio.ask("POST", f"/api/sessions/{made}/takes/take-09/stars", {"stars": 3}).error == "there is no such take."
    )


def test_a_session_is_copied_whole(studio, made):
    answer = studio.ask("GET", f"/api/sessions/{made}/zip")
    assert answer.headers["content-disposition"] == f'attachment; filename="{made}.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    folder = studio.folder / made
    assert held == {f"{made}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    assert f"{made}/take-02_mix.wav" in held


def test_a_part_becomes_a_session_of_its_own(studio, made):
    answer = studio.ask("POST", f"/api/sessions/{made}/cut", {"start": 0.5, "end": 2.0})
    part = read_audio(studio.folder / answer.said["id"] / "voice_vocal.wav").samples
    whole = read_audio(studio.folder / made / "voice_vocal.wav").samples
    assert np.array_equal(part, whole[:, 24_000:96_000])
    of_part = studio.ask("POST", f"/api/sessions/{answer.said['id']}/cut", {"start": 0.25, "end": 1.5})
    part = read_audio(studio.folder / of_part.said["id"] / "voice_vocal.wav").samples
    assert np.array_equal(part, whole[:, 36_000:96_000])
    short = studio.ask("POST", f"/api/sessions/{made}/cut", {"start": 0.5, "end": 0.6})
    assert short.error == "0.10 s is too short; keep 1 s or more."


def test_progress_is_told_as_it_happens(studio, session):
    """Of one order: its steps, its take, its end."""
    stream = HTTPConnection("127.0.0.1", studio.port, timeout=120)
    stream.request("GET", "/api/events")
    answer = stream.getresponse()
    assert answer.getheader("content-type", "").startswith("text/event-stream")
    assert answer.readline() == b"event: jobs\n"
    job = studio.ask("POST", f"/api/sessions/{session}/takes", {"takes": 1, "steps": 3}).said["id"]
    seen, ended, name = [], False, "jobs"
    while not ended:
        line = answer.readline().decode()
        if line.startswith("event: "):
            name = line.split()[1]
        elif line.startswith("data: "):
            said = json.loads(line.removeprefix("data: "))
            shown = said.get("jobs", [said])
            ours = [one for one in shown if one.get("id") == job or name == "take"]
            seen += [(name, one.get("step")) for one in ours]
            ended = any(one.get("state") == "finished" for one in ours)
    stream.close()
    steps = [step for name, step in seen if name == "job" and step]
    assert sorted(set(steps)) == [1, 2, 3]
    assert ("take", None) in seen


def test_what_is_cancelled_keeps_what_is_finished(studio, sung_file):
    session = studio.bring(sung_file)
    path = f"/api/sessions/{session}/takes"
    running = studio.ask("POST", path, {"takes": 3, "steps": 30}).said["id"]
    waiting = studio.ask("POST", path, {"takes": 1, "steps": 30}).said["id"]
    assert [job["position"] for job in studio.ask("GET", "/api/jobs").said if job["id"] == waiting] == [1]
    pause = threading.Event()
    while not next(job for job in studio.ask("GET", "/api/jobs").said if job["id"] == running)["takes"]:
        pause.wait(0.02)
    studio.ask("POST", f"/api/jobs/{waiting}/cancel", {})
    studio.ask("POST", f"/api/jobs/{running}/cancel", {})
    ended = studio.ended(running)
    assert (ended["state"], studio.ended(waiting)["takes"]) == ("cancelled", [])
    assert 1 <= len(ended["takes"]) < 3
    assert [take["name"] for take in studio.ask("GET", f"/api/sessions/{session}").said["takes"]] == ended["takes"]
    assert not list(studio.folder.glob(".making*"))


def test_a_crash_and_memory_that_ran_out_end_one_order_each(studio, session, monkeypatch, capsys):
    def fail(error: Exception):
        def raising(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("infer.studio.takes.write_results", raising)
        return studio.order(session)

    crashed = fail(ZeroDivisionError("a mistake"))
    assert (crashed["state"], crashed["error"]) == ("failed", "internal error (ZeroDivisionError: a mistake)")
    assert "Traceback" in capsys.readouterr().err
    full = fail(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert full["error"] == (
        "out of memory while making a take (CUDA out of memory. Tried to allocate 2.00 GiB). What helps, in this "
        "order: a shorter vocal, close what else is using the device, infer studio --device cpu."
    )
    monkeypatch.undo()
    assert studio.order(session)["state"] == "finished"


def test_without_an_adapter_the_page_is_told_that_nothing_listens(open_studio, sung_file):
    bare = open_studio()
    said = bare.ask("GET", "/api/studio").said
    assert (said["listens"], said["base"], said["adapters"]) == (False, "tiny", [])
    session = bare.bring(sung_file)
    assert bare.order(session, strength=0.9)["state"] == "finished"
    record = record_of(bare.folder / session, "take-01")
    assert (record.adapters, record.settings.ref_strength) == ((), 0.0)


def test_what_was_being_made_is_gone_and_the_rest_is_there(studio, made, tmp_path):
    """A folder as a killed studio leaves it: hidden work, and sounds whose record was not written."""
    root = tmp_path / "sessions"
    (root / ".making-1").mkdir(parents=True)
    (root / ".making-1" / "take-03_mix.wav").write_bytes(b"half")
    copy = root / made
    copy.mkdir()
    for path in (studio.folder / made).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "take-03_accompaniment.wav").write_bytes(b"no record")
    (copy / ".take-04.json.1.part").write_bytes(b"{")
    folders = SessionFolders(root)
    session = folders.open(made)
    assert not list(root.glob(".making*"))
    assert [take.name for take in session.takes()] == ["take-01", "take-02"]
    assert session.next_take() == "take-04"
    with pytest.raises(UserError) as taken:
        SessionFolders(root)
    assert str(taken.value) == (
        f"{root}: another studio has it open. Name another folder with --sessions-dir, or stop that one."
    )
    folders.close()
    SessionFolders(root).close()


def test_a_port_that_is_taken_is_one_line(studio, tmp_path):
    request = StudioRequest(source=BandSource(), sessions_dir=tmp_path, port=studio.port)
    with pytest.raises(UserError) as taken:
        OpenStudio(request)
    assert str(taken.value).startswith(f"127.0.0.1:{studio.port} cannot be listened on (")


@pytest.mark.slow
def test_nothing_is_lost_on_kill_nine(tmp_path, sung_file, open_studio):
    """Killed amid the second take: the vocal, the first take and its stars are there when it starts again."""
    command = [sys.executable, "-m", "infer", "studio", "--sessions-dir", str(tmp_path / "kept"), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()

    def post(path: str, body: bytes) -> dict:
        with urlopen(Request(address + path, body, {"content-type": "application/json"})) as answer:
            return json.load(answer)

    session = post("api/sessions?name=me.wav", sung_file.read_bytes())["id"]
    post(f"api/sessions/{session}/takes", b'{"takes": 3, "steps": 100}')
    folder = tmp_path / "kept" / session
    while not (folder / "take-01.json").is_file():
        time.sleep(0.05)
    post(f"api/sessions/{session}/takes/take-01/stars", b'{"stars": 5}')
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    studio = open_studio(tmp_path / "kept")
    found = studio.ask("GET", f"/api/sessions/{session}").said
    assert [(take["name"], take["stars"]) for take in found["takes"]] == [("take-01", 5)]
    assert len(read_audio(folder / "take-01_mix.wav").samples[0]) == 2.4 * 48_000
    assert (folder / "recording.wav").stat().st_size == (folder / "voice_vocal.wav").stat().st_size
    assert not list((tmp_path / "kept").glob(".making*"))
    assert studio.order(session)["takes"] == ["take-02"]
