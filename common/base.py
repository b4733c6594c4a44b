"""The base model that latents and adapters belong to, as manifest.json and adapter.json name it."""

from typing import Annotated

from pydantic import Field

from common.config import Config


class BaseSpec(Config):
    """A base model: its family, and where it came from."""

    family: str | None = None
    """ "ace-step-1" for networks of the published sizes, "tiny" for those of the bundle; null for others."""
    checkpoint: Annotated[str, Field(pattern=r"^(tiny|\w[\w.-]*/\w[\w.-]*)$")] | None = None
    """The word tiny or a Hugging Face id; null where it was a folder."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Commit of the Hugging Face repository."""

    @property
    def name(self) -> str | None:
        """What --checkpoint-dir takes for it."""
        return f"{self.checkpoint}@{self.revision}" if self.revision else self.checkpoint
