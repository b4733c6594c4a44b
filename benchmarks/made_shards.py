"""Shards of made-up songs for measurements, built by the real prep with the tiny checkpoint."""

import subprocess
import sys
from pathlib import Path


def make_shards(folder: Path, *, songs: int, seconds: float) -> Path:
    """Shards of `songs` songs in folder/shards; the songs themselves lie in folder/raw."""
    raw, shards = folder / "raw", folder / "shards"
    length = ["--songs", str(songs), "--seconds", f"{seconds:g}", "--seed", "1"]
    for arguments in (["demo-songs", raw, *length], ["build-shards", raw, shards, "--checkpoint-dir", "tiny"]):
        subprocess.run([sys.executable, "-m", "prep", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    return shards
