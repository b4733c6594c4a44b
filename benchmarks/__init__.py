"""Measurements, each a ratio taken in one run, and counts. Start them with `uv run python -m benchmarks.NAME`."""
