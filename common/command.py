"""How every command starts and ends: help without heavy imports, underscored flags, one-line errors, exit codes."""

import io
import os
import sys
from collections.abc import Callable, Sequence

import typer
from typer.main import get_command

from common.errors import UserError
from common.memory import explain_out_of_memory

WAITING = "OMP_WAIT_POLICY"
PATIENT = {WAITING: "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""Threads of one operation sleep soon where they wait for each other. Awake, as is usual, they wait for a whole turn of
whatever else the core is given to: with one of two cores taken, a band took ten times as long as with neither."""


def command_app(summary: str) -> typer.Typer:
    """A Typer app with Backline's conventions; `summary` tops its help."""
    return typer.Typer(
        help=summary,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


def example(*lines: str) -> str:
    """Epilog of a command's help: example lines that tests run as they are."""
    return "\b\nExample:\n" + "\n".join(f"  $ {line}" for line in lines)


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run the app on `arguments` (sys.argv without the program by default) and exit the process.

    Flags may be written with underscores. A mistake of the user (UserError, a wrong flag) is one line on stderr
    and exit code 2, as is memory that ran out; an interrupt is exit code 130.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if WAITING not in os.environ:
        os.environ.update(PATIENT)  # before torch is imported, which reads it then
    _print_anything()
    sys.exit(_outcome(lambda: get_command(app).main([dashed(a) for a in given], standalone_mode=False)))


def dashed(argument: str) -> str:
    """`--lora_path=a_b` as `--lora-path=a_b`; anything that is no long flag stays as it is."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def _print_anything() -> None:
    """Have a name that the terminal's encoding lacks printed with escapes, as Windows needs where output is piped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _outcome(command: Callable[[], object]) -> int:
    try:
        with explain_out_of_memory("running this command", "close what else is using it", "--device cpu"):
            code = command()
    except UserError as error:
        return _complain(str(error), 2)
    except typer.TyperException as error:  # a wrong or missing flag
        return _complain(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return code
