"""A prompt that waits for a person: for the answer, the deadline, or somebody's cancel."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from ..core.model import Answer, GateCancelled, State
from ..core.pictures import Pictures
from ..gate_bus import GateBus, Ticket
from ..operator.service import Service
from .host import check_interrupt, interrupt, interrupted

log = logging.getLogger("imagegate")

INTERRUPT_LOOK = 0.1
"""Seconds between looks at ComfyUI's interrupt flag, the only thing that cannot wake a waiter."""


async def wait_for_answer(service: Service, ticket: Ticket) -> Answer:
    """Wait for the answer, the deadline, the panel's failure or ComfyUI's interrupt."""
    bus, gate = service.bus, ticket.gate
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    panel = service.start()
    with _stopping(bus, ticket):
        for future in (ticket.future, panel):
            future.add_done_callback(lambda _: _wake(loop, woken))
        while not ticket.future.done():
            if panel.done() and (failure := panel.exception()):
                raise RuntimeError(str(failure)) from failure
            try:
                check_interrupt()
            except BaseException:
                # The flag is lowered now, so the other gates of this prompt would not see it.
                # Existing ones are withdrawn; what is still to come (the next item of a list)
                # finds the flag raised again. The next prompt starts by lowering it.
                bus.withdraw_prompt(gate.prompt_id, "its prompt was cancelled")
                interrupt()
                raise
            if gate.deadline is not None and time.time() >= gate.deadline:
                bus.expire(gate.id)
                continue
            await _until(woken, gate.deadline)
            woken.clear()
    try:
        return ticket.future.result()
    except GateCancelled as cancelled:
        log.info("gate %r: %s", gate.title, cancelled)
        interrupt()  # for gates of this prompt that are still to come; it has not ended yet
        raise interrupted() from None


async def wait_for_files(future: Future[None]) -> None:
    """Wait until files are stored, or somebody cancels the prompt."""
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    future.add_done_callback(lambda _: _wake(loop, woken))
    while not future.done():
        check_interrupt()
        await _until(woken, None)
        woken.clear()
    future.result()


async def pause(seconds: float) -> None:
    """Wait for some time, or until somebody cancels the prompt."""
    for _ in range(round(seconds / INTERRUPT_LOOK)):
        check_interrupt()
        await asyncio.sleep(INTERRUPT_LOOK)


def when_prompt_ends(call: Callable[[], object]) -> bool:
    """Call something once the prompt that runs now has ended, however it does.

    ComfyUI runs each prompt in an event loop of its own, which cancels what is left at its end.

    Returns:
        Whether there is a prompt that runs.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False

    async def last() -> None:
        try:
            await loop.create_future()
        finally:
            call()

    task = loop.create_task(last())
    _endings.add(task)  # the loop itself keeps no task from being collected
    task.add_done_callback(_endings.discard)
    return True


_endings: set[asyncio.Task[None]] = set()


@contextmanager
def _stopping(bus: GateBus[Pictures], ticket: Ticket) -> Iterator[None]:
    """Within this context, a Stop of the gate stops its whole prompt at once.

    Another branch may be keeping ComfyUI's loop busy (a sampler, say), so that the gate cannot see
    the Stop: then ComfyUI's own flag ends that branch. It is raised in the thread of whoever
    stops, and never after the context is left, for the next prompt may run by then.
    """
    guard = threading.Lock()
    inside = True

    def ended(future: Future[Answer]) -> None:
        failure = future.exception()
        if not isinstance(failure, GateCancelled) or failure.state is State.WITHDRAWN:
            return
        bus.withdraw_prompt(ticket.gate.prompt_id, "its prompt was stopped at another gate")
        with guard:
            if inside:
                interrupt()

    ticket.future.add_done_callback(ended)
    try:
        yield
    finally:
        with guard:
            inside = False


async def _until(woken: asyncio.Event, deadline: float | None) -> None:
    longest = INTERRUPT_LOOK
    if deadline is not None:
        longest = min(longest, max(0.0, deadline - time.time()))
    # Not wait_for: before Python 3.12 it can swallow a cancellation that comes as it is woken.
    timer = asyncio.get_running_loop().call_later(longest, woken.set)
    try:
        await woken.wait()
    finally:
        timer.cancel()


def _wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    try:
        loop.call_soon_threadsafe(woken.set)
    except RuntimeError:  # the prompt, and its loop, ended before
        return
