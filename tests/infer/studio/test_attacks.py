"""What strangers, foreign pages and odd files get: a refusal of one line, and nothing else."""

import io
import json
import shutil
import socket
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from common.audio.wave import write_audio
from infer.studio.access import AccessRules
from infer.studio.upload import kind_of, largest_upload, shown_name

OURS = "this address is not the studio's. Open the one that it printed."
FOREIGN = "another site may not use the studio."


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", "127.0.0.1.evil:{port}", "", "[::"]
)
def test_another_host_is_refused(studio, host):
    answer = studio.ask("GET", "/api/sessions", host=host.format(port=studio.port))
    assert (answer.status, answer.error) == (421, OURS)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_loopback_under_each_name_is_answered(studio, host):
    assert studio.ask("GET", "/api/sessions", host=f"{host}:{studio.port}").status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1"])
@pytest.mark.parametrize("path", ["/api/sessions?name=x", "/api/jobs/x/cancel"])
def test_a_foreign_page_may_not_post(studio, origin, path):
    before = studio.ask("GET", "/api/sessions").said
    answer = studio.ask("POST", path, b"{}", origin=origin.format(port=studio.port))
    assert (answer.status, answer.error) == (403, FOREIGN)
    assert studio.ask("GET", "/api/sessions").said == before


def test_a_foreign_page_may_not_read_and_may_lead_here(studio, session):
    for site in ("cross-site", "same-site"):
        assert studio.ask("GET", f"/api/sessions/{session}/voice", sec_fetch_site=site).error == FOREIGN
        assert studio.ask("GET", "/", sec_fetch_site=site).status == 200
    assert studio.ask(
        "GET", "/api/sessions", origin=f"http://127.0.0.1:{studio.port}", sec_fetch_site="same-origin"
    ).said


def test_every_answer_carries_what_keeps_a_browser_safe(studio):
    for path in ("/", "/assets/js/main.js", "/api/sessions", "/nothing"):
        headers = studio.ask("GET", path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self';" in policy
        assert "unsafe" not in policy
        assert (headers["x-content-type-options"], headers["cross-origin-resource-policy"]) == (
            "nosniff",
            "same-origin",
        )
        assert "server" not in headers
    page = studio.ask("GET", "/").body.decode()
    assert "http://" not in page
    assert "https://" not in page


def test_away_from_loopback_a_token_is_wanted():
    rules = AccessRules(7860, "0.0.0.0", "secret")
    ours = {"host": "192.168.1.5:7860"}
    for headers in (ours, ours | {"cookie": "backline-studio-7860=wrong"}, ours | {"cookie": "a=\x00;;="}):
        refusal = rules.refusal("GET", "/", headers, "token=wrong")
        assert refusal is not None
        assert refusal.status == 401
    assert rules.refusal("GET", "/", ours, "token=secret") is None
    assert rules.refusal("GET", "/api/jobs", ours | {"cookie": "backline-studio-7860=secret"}, "") is None
    for host in ("evil.example:7860", "192.168.1.5:80"):
        refusal = rules.refusal("GET", "/", {"host": host}, "token=secret")
        assert refusal is not None
        assert refusal.status == 421


def test_a_token_becomes_a_cookie_and_leaves_the_address(open_studio, tmp_path):
    studio = open_studio(tmp_path / "sessions", host="0.0.0.0")
    token = studio.address.partition("?")[2]
    assert len(token) > 20
    assert studio.ask("GET", "/").status == 401
    opened = studio.ask("GET", f"/?{token}")
    cookie = opened.headers["set-cookie"]
    assert (opened.status, opened.headers["location"]) == (303, "/")
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert studio.ask("GET", "/", cookie=cookie.partition(";")[0]).status == 200


TRAVERSALS = [
    "..",
    "../..",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "/etc/passwd",
    "%00",
    "take-01%00.json",
    "a/../../b",
    "~root",
    "C:%5C",
]


@pytest.mark.parametrize("name", TRAVERSALS)
def test_a_name_is_never_a_path(studio, session, name):
    for path in (
        f"/assets/{name}",
        f"/assets/js/{name}",
        f"/api/sessions/{name}",
        f"/api/sessions/{name}/voice",
        f"/api/sessions/{name}/zip",
        f"/api/sessions/{session}/takes/{name}/sound",
        f"/api/sessions/{session}/takes/take-01/{name}",
    ):
        answer = studio.ask("GET", path)
        assert answer.status in (404, 405), path
        assert answer.error
    for path in (
        f"/api/sessions/{name}/cut",
        f"/api/sessions/{name}/lead_sheet",
        f"/api/sessions/{session}/takes/{name}/stars",
        f"/api/jobs/{name}/cancel",
    ):
        assert studio.ask("POST", path, {"start": 0, "end": 1, "stars": 1}).status in (404, 405, 422)


@pytest.mark.parametrize(
    "name",
    ["..%2f..%2fx.wav", "%2fetc%2fpasswd", "%00.wav", "x%0d%0aset-cookie: a.wav".replace(" ", "%20"), "a" * 5000],
)
def test_a_recording_may_be_called_anything(studio, sung_file, name):
    before = set(studio.folder.parent.rglob("*"))
    session = studio.bring(sung_file, name)
    made = {path.name for path in set(studio.folder.parent.rglob("*")) - before}
    assert made == {session, "session.json", "recording.wav", "voice_vocal.wav", "voice_lead_sheet.txt"}
    shown = studio.ask("GET", f"/api/sessions/{session}").said["name"]
    assert len(shown) <= 80
    assert shown.isprintable()
    shutil.rmtree(studio.folder / session)


def test_html_in_names_and_prompts_comes_back_as_text(studio, sung_file):
    session = studio.bring(sung_file, "%3Cscript%3Ealert(1)%3C%2Fscript%3E.wav")
    answer = studio.ask("GET", f"/api/sessions/{session}")
    assert answer.headers["content-type"] == "application/json"
    assert answer.said["name"] == "<script>alert(1)</script>.wav"
    assert studio.order(session, prompt='<img src=x onerror="alert(1)">\n\x1b[31m')["state"] == "finished"
    assert studio.ask("GET", f"/api/sessions/{session}").said["prompt"] == '<img src=x onerror="alert(1)"> [31m'
    shutil.rmtree(studio.folder / session)


def test_two_gigabytes_are_refused_at_the_limit(studio):
    """By what it says of itself, and as it streams: no more than the limit is ever on the disk."""
    limit, before = largest_upload(20.0), psutil.Process().memory_info().rss
    with socket.create_connection(("127.0.0.1", studio.port)) as told:
        told.sendall(_post(studio, f"content-length: {2 * 10**9}"))
        assert b" 413 " in told.recv(1000).partition(b"\r\n")[0]
    sent, chunk = 0, b"%x\r\n" % 2**20 + bytes(2**20) + b"\r\n"
    with socket.create_connection(("127.0.0.1", studio.port)) as streamed:
        streamed.sendall(_post(studio, "transfer-encoding: chunked"))
        try:
            while sent < 2 * 10**9:
                streamed.sendall(chunk)
                sent += 2**20
        except OSError:
            pass  # the studio has closed the connection
    assert sent < 4 * limit
    assert not [path for path in studio.folder.rglob("*") if path.name == "upload"]
    assert psutil.Process().memory_info().rss - before < 100 * 2**20


def _post(studio, length: str) -> bytes:
    return f"POST /api/sessions?name=big HTTP/1.1\r\nhost: 127.0.0.1:{studio.port}\r\n{length}\r\n\r\n".encode()


def test_other_bodies_are_short(studio, session):
    path = f"/api/sessions/{session}/takes"
    assert studio.ask("POST", path, b" " * 100_000).error == "a request has at most 65536 bytes."
    chunked = studio.ask("POST", path, None, transfer_encoding="chunked", content_type="application/json")
    assert (chunked.status, chunked.error) == (411, "a request says how long it is.")


def zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("voice.wav", bytes(20_000_000))
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no audio",
        zip_bomb(),
        b"#EXTM3U\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\x1f\x8b\x08",
    ],
    ids=["empty", "text", "zip bomb", "playlist", "concat", "gzip"],
)
def test_what_is_no_audio_is_refused_by_its_content(studio, content):
    answer = studio.ask("POST", "/api/sessions?name=voice.wav", content)
    assert (answer.status, answer.error) == (
        400,
        "voice.wav: is no WAV, FLAC, MP3, Ogg, AIFF, CAF, M4A or WebM. Give one of these.",
    )
    assert not list(studio.folder.glob(".making*"))


def test_hours_in_few_bytes_end_at_the_limit(studio, tmp_path):
    """A FLAC of silence: its size says nothing of its length."""
    bomb = tmp_path / "bomb.flac"
    with soundfile.SoundFile(bomb, "w", 8000, 1) as file:
        for _ in range(100):
            file.write(np.zeros(8000 * 36))
    assert bomb.stat().st_size < 1_000_000
    answer = studio.ask("POST", "/api/sessions?name=bomb.flac", bomb.read_bytes())
    assert answer.error == "bomb.flac: is longer than 20 s, which is the most (--max-seconds). Cut it."
    assert not list(studio.folder.glob(".making*"))


def test_what_is_damaged_or_silent_or_short_is_one_line(studio, sung_file, tmp_path):
    for samples, line in (
        (np.zeros((1, 48_000)), "odd.wav: this recording is silent."),
        (np.ones((1, 4800)) * 0.1, "shorter than one loudness block"),
    ):
        write_audio(tmp_path / "odd.wav", samples.astype(np.float32), 48_000)
        assert line in studio.ask("POST", "/api/sessions?name=odd.wav", (tmp_path / "odd.wav").read_bytes()).error
    cut = studio.ask("POST", "/api/sessions?name=cut.wav", sung_file.read_bytes()[:100_000])
    assert cut.error.startswith("cut.wav: cut short")


@pytest.mark.parametrize(
    "body",
    [
        {"takes": 100},
        {"steps": 10**9},
        {"strength": -1},
        {"seed": 2**70},
        {"prompt": "x" * 5000},
        {"output_dir": "/etc"},
        {"takes": "3; rm"},
        [],
        None,
    ],
    ids=str,
)
def test_an_order_is_within_bounds(studio, session, body):
    answer = studio.ask(
        "POST", f"/api/sessions/{session}/takes", json.dumps(body).encode(), content_type="application/json"
    )
    assert answer.status == 422
    assert answer.error


def test_fifty_at_once_are_answered_or_told_to_wait(studio, session):
    """Orders beyond the queue, and recordings beyond two at a time, are refused; the studio goes on."""
    with ThreadPoolExecutor(50) as many:
        answers = list(
            many.map(
                lambda _: studio.ask("POST", f"/api/sessions/{session}/takes", {"takes": 1, "steps": 1}), range(50)
            )
        )
    taken = [answer.said["id"] for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    assert len(taken) + len(refused) == 50
    assert 8 <= len(taken) <= 12
    assert refused[0].error == "8 orders are waiting, which is the most. Wait for one, or cancel one."
    for job in taken[1:]:
        studio.ask("POST", f"/api/jobs/{job}/cancel", {})
    assert {studio.ended(job)["state"] for job in taken} <= {"finished", "cancelled"}
    with ThreadPoolExecutor(50) as many:
        pages = list(many.map(lambda _: studio.ask("GET", "/api/sessions").status, range(50)))
    assert pages == [200] * 50


def test_kinds_are_told_by_their_first_bytes():
    assert kind_of(b"RIFF\x00\x00\x00\x00WAVE") == "WAV"
    assert kind_of(b"\x00\x00\x00\x18ftypM4A ") == "M4A"
    assert kind_of(b"\xff\xfb\x90\x00") == "MP3"
    assert kind_of(b"PK\x03\x04") is None
    assert shown_name("a\x1b[31m\nb\u202e.wav") == "a [31m b .wav"


def test_a_link_in_a_session_is_not_followed(studio, sung_file):
    session = studio.bring(sung_file)
    secret = studio.folder.parent / "secret.txt"
    secret.write_text("secret")
    (studio.folder / session / "note.txt").symlink_to(secret)
    with zipfile.ZipFile(io.BytesIO(studio.ask("GET", f"/api/sessions/{session}/zip").body)) as archive:
        assert sorted(Path(name).name for name in archive.namelist()) == [
            "recording.wav",
            "session.json",
            "voice_lead_sheet.txt",
            "voice_vocal.wav",
        ]
    shutil.rmtree(studio.folder / session)
