"""Parts of a Hugging Face repository, from the hub or its cache: all of one commit, each failure one line."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError

HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")
"""A repository, and a branch, tag or commit of it."""
COMMIT = re.compile(r"[0-9a-f]{40}")
LOGIN = "Log in (hf auth login) or set HF_TOKEN"

_commits: dict[str, str] = {}
"""What each name meant the first time: a repository that changes meanwhile is not mixed of two revisions."""


def fetch(name: str, patterns: Sequence[str]) -> Path:
    """The cache's folder of one commit, into which files of "owner/name" or "owner/name@revision" are fetched: those
    whose paths fit one of `patterns`.

    Raises UserError for a name that is none, and for what Hugging Face or the connection refuses.
    """
    matched = HUB_ID.fullmatch(name)
    if not matched:
        raise UserError(f"{name}: no such folder. Give a checkpoint folder, a Hugging Face id (owner/name), or tiny.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError

    revision = _commits.get(name) or matched[2]
    try:
        found = Path(snapshot_download(matched[1], revision=revision, allow_patterns=list(patterns)))
    except (OSError, HTTPError, HFValidationError) as error:
        raise UserError(f"{name}: {_explained(error, matched[2])}") from None
    _commits[name] = found.name
    return found


def cached(name: str, *patterns: str) -> Path | None:
    """The cache's folder of "owner/name" or "owner/name@revision", whose files of these `patterns` were fetched; None
    where they were not. No connection is made."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=list(patterns), local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None


def revision_of(folder: Path) -> str | None:
    """The commit that a folder of the Hugging Face cache stands for; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name) else None


def again(path: Path) -> str:
    """How to get a damaged file PART/FILE once more."""
    if revision_of(path.parents[1]) is None:
        return "Copy or download it again."
    return f"Remove {path.resolve()}, and it is downloaded again."


def _explained(error: Exception, revision: str | None) -> str:
    """What went wrong, and the way out."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):
        return _out_of_reach(error)
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error).strip()
    reason = reason.partition("\n")[0].rstrip(".")
    return _refusal(error, revision) or (
        f"cannot be fetched from Hugging Face ({type(error).__name__}: {reason}). Run this again: files that are whole "
        "are kept."
    )


def _refusal(error: Exception, revision: str | None) -> str | None:
    """What the hub answered; None where it is none of what a user can mend."""
    from huggingface_hub import errors, get_token

    if isinstance(error, errors.GatedRepoError):
        return f"Hugging Face gives it only to users who have accepted its terms. {LOGIN}, or give a folder."
    unauthorised = getattr(getattr(error, "response", None), "status_code", None) == 401
    if unauthorised and get_token() is not None:
        return f"Hugging Face refuses the token of this machine. {LOGIN} anew, or give a folder."
    if unauthorised or isinstance(error, errors.RepositoryNotFoundError):
        return (
            "no such folder, and no such repository on Hugging Face, or a private one. Check the name. "
            f"{LOGIN}, or give a folder."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"this repository of Hugging Face has no revision {revision}. Leave out what follows the @."
    return None


def _out_of_reach(error: Exception) -> str:
    """The hub is not asked, or does not answer, and the cache does not hold all."""
    from huggingface_hub import constants
    from huggingface_hub.errors import IncompleteSnapshotError

    partly = isinstance(error, IncompleteSnapshotError)
    held = "only a part of it is in the cache" if partly else "no such folder, not in the cache"
    why, way_out = f"{constants.ENDPOINT} does not answer", "Check the connection and run this again"
    if constants.is_offline_mode():
        why, way_out = "HF_HUB_OFFLINE is set", f"Unset it once to fetch {'the rest' if partly else 'it'}"
    return f"{held} {constants.HF_HUB_CACHE}, and {why}. {way_out}, or give a folder."
