"""What happens in the studio, told to every page that listens, as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

MOST_LISTENERS = 32
MOST_UNREAD = 1000
"""A page that reads so little is told nothing more; its browser connects again and is told all."""
ALIVE_SECONDS = 15.0
"""Between two signs of life, by which a connection that is gone is found."""


class EventFeed:
    """Tells each listener each event, in order; `publish` may be called from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: set[asyncio.Queue[str | None]] = set()
        self._closed = False

    @property
    def is_full(self) -> bool:
        return len(self._queues) >= MOST_LISTENERS

    def publish(self, name: str, said: dict[str, Any]) -> None:
        """Tell all that something happened."""
        self._call(lambda: self._put(event_text(name, said)))

    def close(self) -> None:
        """End every stream."""
        self._closed = True
        self._call(lambda: self._put(None))

    async def listen(self, first: str) -> AsyncIterator[str]:
        """The text of a stream: `first`, then what is published, with signs of life between."""
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue(MOST_UNREAD)
        self._queues.add(queue)
        try:
            yield first
            while not self._closed:
                try:
                    text = await asyncio.wait_for(queue.get(), ALIVE_SECONDS)
                except TimeoutError:
                    text = ": alive\n\n"
                if text is None:
                    return
                yield text
        finally:
            self._queues.discard(queue)

    def _call(self, act: Any) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(act)

    def _put(self, text: str | None) -> None:
        for queue in list(self._queues):
            if queue.full():
                queue.get_nowait()
                self._queues.discard(queue)
                text_for_it = None
            else:
                text_for_it = text
            queue.put_nowait(text_for_it)


def event_text(name: str, said: dict[str, Any]) -> str:
    """One event as a stream spells it; JSON has no line breaks of its own."""
    return f"event: {name}\ndata: {json.dumps(said, ensure_ascii=False)}\n\n"
