"""What several commands of infer take, and what they say where memory does not suffice."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal

import typer

from common.memory import explain_out_of_memory

Checkpoint = Annotated[
    str | None,
    typer.Option(help="Base model: a folder, a Hugging Face id, or tiny [the adapter's].", metavar="DIR"),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto is cuda where there is one, else cpu.")]
Harmoniser = Annotated[
    Path | None,
    typer.Option(
        help="Folder that `train harmoniser` wrote, to infer lead sheets [the adapter's own, else Backline's].",
        metavar="DIR",
    ),
]
Precision = Annotated[
    Literal["32", "bf16"] | None, typer.Option(help="Number format of the transformer [32 on a CPU, else bf16].")
]


def memory_told(precision: str | None) -> AbstractContextManager[None]:
    """Say what helps where memory does not suffice for a song."""
    return explain_out_of_memory(
        "making accompaniments",
        "close what else is using the device",
        "--precision bf16" if precision == "32" else None,
        "--device cpu",
    )
