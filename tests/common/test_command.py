import os

import pytest
import typer

from common.command import PATIENT, WAITING, command_app, dashed, example, run
from common.errors import UserError


def app() -> typer.Typer:
    made = command_app("Sing.")

    @made.callback()
    def sing() -> None: ...

    @made.command(epilog=example("sing note --pitch-hz 440"))
    def note(pitch_hz: float = typer.Option(440.0)) -> None:
        if pitch_hz < 20:
            raise UserError(f"{pitch_hz:g} Hz is too low\nto hear (20 Hz). Sing higher.")
        typer.echo(f"{pitch_hz:g}")

    return made


def outcome(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        run(app(), arguments)
    printed = capsys.readouterr()
    return stopped.value.code, printed.out, printed.err


def test_underscored_flags_are_the_dashed_ones(capsys):
    assert outcome(capsys, "note", "--pitch_hz", "220") == (0, "220\n", "")
    assert [dashed(a) for a in ["--a_b=c_d", "-a_b", "x_y"]] == ["--a-b=c_d", "-a_b", "x_y"]


def test_a_users_mistake_is_one_line_and_code_2(capsys):
    assert outcome(capsys, "note", "--pitch-hz", "3") == (
        2,
        "",
        "error: 3 Hz is too low to hear (20 Hz). Sing higher.\n",
    )
    code, out, err = outcome(capsys, "note", "--loud")
    assert (code, out) == (2, "")
    assert err.startswith("error: No such option: --loud")
    assert err.count("\n") == 1


def test_threads_wait_patiently_unless_they_are_told_to_wait_otherwise(capsys, monkeypatch):
    for name in PATIENT:
        monkeypatch.delenv(name, raising=False)
    outcome(capsys, "note")
    assert PATIENT.items() <= os.environ.items()
    for name in PATIENT:
        monkeypatch.delenv(name)
    monkeypatch.setenv(WAITING, "ACTIVE")
    outcome(capsys, "note")
    assert {name: os.environ.get(name) for name in PATIENT} == {WAITING: "ACTIVE", "GOMP_SPINCOUNT": None}


def test_help_ends_with_the_example(capsys):
    code, out, _ = outcome(capsys, "note", "--help")
    assert code == 0
    assert out.rstrip().endswith("$ sing note --pitch-hz 440")


def test_no_arguments_print_the_help(capsys):
    code, out, err = outcome(capsys)
    assert code in {0, 2}
    assert "Sing." in out + err
