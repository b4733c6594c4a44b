"""`python -m recipe` writes models/tiny/ anew."""

from common.progress import say
from models.checkpoint import TINY
from recipe.bundle import write_bundle

write_bundle(TINY)
say(f"wrote {TINY}: {sum(path.stat().st_size for path in TINY.rglob('*.*')) / 1e6:.1f} MB")
