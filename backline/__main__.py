"""`python -m backline` lists the commands."""

import sys
from collections.abc import Iterator

import typer
from typer.main import get_command

import demo.cli
import infer.cli
import prep.cli
import train.cli
from backline import __version__
from common.table import in_columns

APPS = {"prep": prep.cli.app, "train": train.cli.app, "infer": infer.cli.app, "backline-demo": demo.cli.app}


def main() -> None:
    """Print every command with what it does, on stdout."""
    rows = [row for program, app in APPS.items() for row in _commands(program, app)]
    sys.stdout.write(f"Backline {__version__}\n\n{in_columns(rows)}\n")


def _commands(program: str, app: typer.Typer) -> Iterator[tuple[str, str]]:
    top = get_command(app)
    for name, command in getattr(top, "commands", {"": top}).items():
        yield f"{program} {name}".strip(), " ".join((command.help or "").split("\n\n")[0].split())


if __name__ == "__main__":
    main()
