"""Measurements, each a ratio taken in one run. Start them with `uv run python -m benchmarks.NAME`."""
