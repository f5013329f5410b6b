"""Server-sent events: what happens to gates, streamed to open pages.

Not done with sse-starlette, which encodes each event again for each stream, sends its signs of life
as comments, which a page's script does not see, and looks for uvicorn in signal handlers.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from anyio import to_thread
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..core.bus import Bus
from ..core.model import Selection, Snapshot, StoreError
from ..core.news import Bell
from .answers import NO_STORE
from .looking import looks

HEARTBEAT = 5.0
"""Seconds between signs of life on a stream; a closed tab is noticed at the latest then."""
MOST_UNREAD = 50
"""News that a stream may be behind; beyond that its page reads the lists again instead."""
KEPT_EVENTS = 200
"""The most events that are kept after they were made."""

log = logging.getLogger("imagegate")


class SharedEvents:
    """Makes each event once for all streams of one loop that send the same."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[Any, asyncio.Task[bytes]] = OrderedDict()

    async def once(self, key: Any, make: Callable[[], bytes], *, keep: bool) -> bytes:
        """What ``make`` returns, called once. ``keep``: also for those who ask later."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(to_thread.run_sync(make))
            while len(self._tasks) > KEPT_EVENTS:
                self._tasks.popitem(last=False)
        try:
            event = await asyncio.shield(task)
        except BaseException:
            self._drop(key, task)
            raise
        if not keep:
            self._drop(key, task)
        return event

    def _drop(self, key: Any, task: asyncio.Task[bytes]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]


class EventStream:
    """A stream of server-sent events: published, masked, decided, withdrawn; each with its gate.

    ``looking`` says who looks at what, whenever that changes and several people look.

    ``reload`` comes first and whenever news was lost: read the lists again. ``alive`` comes when
    nothing was sent for a while, however much happens that this page does not see.

    Args:
        describe: the content of an event about a gate, or about none.
        bell: something else to listen to. ``kind``: the event that says it rang, if any.
        over: called at each news and before each sign of life; a text that it returns ends the
            stream with an event ``over``.
        left: seconds until ``over`` has to be called in any case.
        shared: by all streams for which ``describe`` gives the same.
    """

    def __init__(
        self,
        bus: Bus,
        among: Selection,
        describe: Callable[[Snapshot | None], dict[str, Any]],
        *,
        bell: Bell | None = None,
        kind: str = "",
        over: Callable[[], str] | None = None,
        left: Callable[[], float] = lambda: HEARTBEAT,
        shared: SharedEvents | None = None,
    ) -> None:
        self._bus = bus
        self._shared = shared
        self._among = among
        self._describe = describe
        self._bell = Bell() if bell is None else bell
        self._kind = kind
        self._over = over
        self._left = left

    def response(
        self, request: Request, ended: Callable[[], None] = lambda: None
    ) -> StreamingResponse:
        """The stream as an answer; ``ended`` is called when it ends, for whatever reason."""
        return _StreamResponse(
            ended,
            while_it_lasts(self.events(request)),
            media_type="text/event-stream",
            headers=NO_STORE | {"x-accel-buffering": "no"},
        )

    async def events(self, request: Request) -> AsyncIterator[bytes]:
        """The events, until the client disconnects."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        rung = False
        looked = False

        def wake() -> None:
            if not woken.is_set():  # a client that reads nothing is woken once
                loop.call_soon_threadsafe(woken.set)

        def ring() -> None:
            nonlocal rung
            rung = True
            wake()

        def look() -> None:
            nonlocal looked
            looked = True
            wake()

        viewers = self._bus.viewers
        forget, blind = self._bell.listen(ring), viewers.changed.listen(look)
        try:
            with self._bus.subscribe(wake) as subscription:
                # It may have ended since the request was let in.
                reason = await self._ended()
                if not reason:
                    # A page that has just (re)connected, or was too slow, reads the lists again.
                    yield await self._event_for("reload")
                    if viewers.looks():
                        yield _event("looking", looks(viewers, self._among))
                due = loop.time() + HEARTBEAT
                while not reason and not await request.is_disconnected():
                    await _wait_for(woken, max(0.0, min(due - loop.time(), self._left())))
                    woken.clear()
                    reason = await self._ended()
                    if reason:
                        break
                    said: list[tuple[str, Snapshot | None]] = []
                    if rung and self._kind:
                        said.append((self._kind, None))
                    rung = False
                    news, missed = subscription.drain()
                    if missed or len(news) > MOST_UNREAD:
                        said.append(("reload", None))
                    else:
                        ours = [item for item in news if self._among.covers(item.gate.gate)]
                        said += [(item.kind, item.gate) for item in ours]
                    if not said and loop.time() >= due:
                        # A sign of life, by which a page knows that its connection is not dead.
                        said.append(("alive", None))
                    if looked:
                        looked = False
                        yield _event("looking", looks(viewers, self._among))
                        due = loop.time() + HEARTBEAT
                    for kind, gate in said:
                        yield await self._event_for(kind, gate)
                        due = loop.time() + HEARTBEAT
                if reason:
                    yield _event("over", {"reason": reason})
        finally:
            forget()
            blind()

    async def _ended(self) -> str:
        return await to_thread.run_sync(self._over) if self._over is not None else ""

    async def _event_for(self, kind: str, gate: Snapshot | None = None) -> bytes:
        def say() -> bytes:
            return _event(kind, self._describe(gate))

        # Counting may query a database, which must not hold up all other streams.
        if self._shared is None:
            return await to_thread.run_sync(say)
        which = (gate.gate.id, gate.version) if gate is not None else None
        return await self._shared.once((self._among, kind, which), say, keep=gate is not None)


class _StreamResponse(StreamingResponse):
    def __init__(self, ended: Callable[[], None], *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


async def while_it_lasts(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """End the stream when the store is away: the page connects again and reads what is so then."""
    try:
        async for event in events:
            yield event
    except StoreError as error:
        log.debug("a stream ends: %s", error)


def _event(kind: str, content: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n".encode()
