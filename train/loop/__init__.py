"""One run: what it opens, its training step, its validation, its checkpoints and what it leaves behind.

Imports train/data/ and train/devices/.
"""
