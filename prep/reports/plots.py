"""Pictures of what shards hold: histograms, and one sample's latents.

N values, T latent frames, R = C*H latent rows.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.files import whole_file
from shards.reader import read_manifest, read_shard
from shards.schema import Sample

WIDTH, HEIGHT, MARGIN = 640, 360, 48
BINS = 24
INK, BAR, PAPER = "#222222", "#3b6ea5", "#ffffff"


def save_plots(shards: Path, folder: Path) -> list[Path]:
    """Write the pictures into `folder`; their paths come back. Raises UserError where there are no whole shards."""
    manifest = read_manifest(shards)
    segments = [segment for shard in manifest.shards for segment in shard.segments]
    levels = [segment.vocal_lufs for segment in segments if segment.vocal_lufs is not None]
    samples = (sample for shard in manifest.shards for sample in read_shard(shards, shard))
    first, activity = None, []
    for sample in samples:
        first = first or sample
        activity.append(float(sample.activity.astype(np.float32).mean()))
    assert first is not None, "a manifest has samples"
    pictures = {
        "durations": histogram("Length of segments", "seconds", [segment.seconds for segment in segments]),
        "vocal_lufs": histogram("Loudness of vocals as encoded", "LUFS", levels),
        "vocal_activity": histogram("Share of each segment that is sung", "share", activity),
        "latent": latent_picture(first),
    }
    return [_save(folder / f"{name}.png", picture) for name, picture in pictures.items()]


def histogram(title: str, unit: str, values: Sequence[float]) -> Image.Image:
    """Bars of how many values [N] lie where; the outermost bars begin and end at the outermost values."""
    picture, draw = _canvas(title)
    if not values:
        draw.text((MARGIN, HEIGHT / 2), "no values", INK, font=_font(16))
        return picture
    low, high = min(values), max(values)
    counts, edges = np.histogram(values, BINS, (low, high) if high > low else (low - 0.5, high + 0.5))
    across, up = (WIDTH - 2 * MARGIN) / BINS, (HEIGHT - 2 * MARGIN) / counts.max()
    floor = HEIGHT - MARGIN
    for number, count in enumerate(counts):
        left = MARGIN + number * across
        draw.rectangle((left + 1, floor - count * up, left + across - 1, floor), fill=BAR if count else PAPER)
    draw.line((MARGIN, floor, WIDTH - MARGIN, floor), fill=INK)
    for place, value in ((MARGIN, edges[0]), (WIDTH / 2, (edges[0] + edges[-1]) / 2), (WIDTH - MARGIN, edges[-1])):
        draw.text((place, floor + 6), f"{value:.3g}", INK, font=_font(13), anchor="ma")
    draw.text((WIDTH / 2, HEIGHT - 4), unit, INK, font=_font(13), anchor="md")
    draw.text((MARGIN - 8, MARGIN), str(counts.max()), INK, font=_font(13), anchor="rm")
    median = f"{len(values)} segments, median {np.median(values):.3g} {unit}"
    draw.text((WIDTH - MARGIN, 14), median, INK, font=_font(13), anchor="ra")
    return picture


def latent_picture(sample: Sample) -> Image.Image:
    """Vocal and targets of a sample over time, each [R, T] in grey from its 1st to its 99th percentile."""
    parts = [(name, part) for name in ("vocal", "inst", "mix") if (part := sample.arrays().get(name)) is not None]
    picture, draw = _canvas(f"Latents of {sample.meta.key}", height=60 + 160 * len(parts))
    for number, (name, latents) in enumerate(parts):
        rows = latents.astype(np.float32).reshape(-1, latents.shape[-1])
        low, high = np.percentile(rows, (1, 99))
        grey = np.clip((rows - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
        top = 40 + 160 * number
        size = (WIDTH - 2 * MARGIN, 128)
        picture.paste(Image.fromarray(grey).resize(size, Image.Resampling.NEAREST), (MARGIN, top + 16))
        draw.text((MARGIN, top), name, INK, font=_font(13))
    draw.text((WIDTH - MARGIN, picture.height - 4), f"{sample.meta.seconds:.1f} s", INK, font=_font(13), anchor="rd")
    return picture


def _canvas(title: str, *, height: int = HEIGHT) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 10), title, INK, font=_font(16))
    return picture, draw


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _save(path: Path, picture: Image.Image) -> Path:
    with whole_file(path) as partial:
        picture.save(partial, format="PNG")
    return path
