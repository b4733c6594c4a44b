"""Where shards lie: a folder, a folder on a web server, or what a command that the user typed brings."""

import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

from common.errors import UserError

ShardLocation = Path | str
"""A folder, or an address: http://, https:// or pipe: with {} where the name of a file goes."""
TIMEOUT_SECONDS = 30.0
"""A server that sends nothing for so long is gone."""
WAITS_SECONDS = (0.5, 2.0, 8.0)
"""Pauses before each further try to fetch a file."""
CHUNK_BYTES = 1 << 20


def is_command(text: str) -> bool:
    """Whether reading from there would run something: that must come from the user, never from a file."""
    return text.startswith("pipe:")


def location_of(text: str) -> ShardLocation:
    """The location that a user means by `text`. Raises UserError for a pipe: that does not say where the name goes."""
    if is_command(text) and "{}" not in text:
        raise UserError(f"{text}: write {{}} where the name of a file goes, as in pipe:ssh host cat shards/{{}}")
    return text if is_command(text) or text.startswith(("http://", "https://")) else Path(text)


def address(location: ShardLocation, name: str) -> str:
    """How messages call the file `name` in a location, and how it is fetched from there."""
    if isinstance(location, Path):
        return str(location / name)
    if is_command(location):
        return location.replace("{}", name)
    parts = urlsplit(location)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def fetch(location: str, name: str, *, size: int | None = None) -> bytes:
    """What an address holds under `name`, of `size` bytes if that is known.

    A server is asked again where asking again may help. Raises UserError if the file cannot be had.
    """
    url = address(location, name)
    return _piped(url) if is_command(url) else _downloaded(url, size)


def _downloaded(url: str, size: int | None) -> bytes:
    for wait in (*WAITS_SECONDS, None):
        try:
            content = _response(url, size)
        except HTTPError as error:
            reason = f"the server says {error.code} {error.reason}"
            if error.code < 500 and error.code != 429:
                raise UserError(f"{url}: {reason}. Is this a folder of shards?") from None
        except (OSError, HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        else:
            if size is None or len(content) >= size:
                return content
            reason = f"{len(content)} of {size} bytes came"
        if wait is not None:
            time.sleep(wait)
    raise UserError(f"{url}: not to be had in {len(WAITS_SECONDS) + 1} tries ({reason}). Is the server there?")


def _response(url: str, size: int | None) -> bytes:
    """The answer of a server, but never much more than `size` bytes of it."""
    chunks, got = [], 0
    with urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
        if size is None:
            return answer.read()
        while got <= size and (chunk := answer.read(CHUNK_BYTES)):
            chunks.append(chunk)
            got += len(chunk)
    return b"".join(chunks)


def _piped(url: str) -> bytes:
    from webdataset.gopen import gopen_pipe

    try:
        with gopen_pipe(url) as pipe:
            return pipe.read()
    except (OSError, ValueError) as error:
        raise UserError(f"{url}: the command failed ({error}).") from None
