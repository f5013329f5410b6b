"""Threads of our own: how they start, wake, close, and pause."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from imagegate.core.loop import Background, Backoff, Loop

PATIENCE = 60.0


@pytest.fixture
def loops() -> Iterator[Callable[[Callable[[Loop], object]], Loop]]:
    """Makes loops that are closed in the end; what they run is given the loop."""
    made: list[Loop] = []

    def make(run: Callable[[Loop], object]) -> Loop:
        loop = Loop("imagegate-test", lambda: run(loop))
        made.append(loop)
        return loop

    yield make
    for loop in made:
        assert loop.close(PATIENCE)


def test_a_loop_starts_once(loops: Callable[..., Loop]) -> None:
    """A loop has one daemon thread, named for it, however often it is started."""
    seen: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
    loop = loops(lambda _: seen.put(threading.current_thread()))
    assert loop.start()
    assert not loop.start()
    thread = seen.get(timeout=PATIENCE)
    assert (thread.name, thread.daemon) == ("imagegate-test", True)
    assert loop.close(PATIENCE)
    assert seen.empty()


def test_a_loop_that_was_closed_does_not_start(loops: Callable[..., Loop]) -> None:
    """Nothing runs in a loop that was closed before it was started."""
    ran = threading.Event()
    loop = loops(lambda _: ran.set())
    assert loop.close()
    assert not loop.start()
    assert not ran.is_set()


def test_a_loop_that_is_woken_within_a_turn_has_another(loops: Callable[..., Loop]) -> None:
    """What a loop is woken for while it does a turn is seen in another turn."""
    turns: queue.SimpleQueue[int] = queue.SimpleQueue()
    count = 0

    def run(loop: Loop) -> None:
        def turn() -> None:
            nonlocal count
            count += 1
            turns.put(count)
            if count == 1:
                loop.wake()

        loop.repeat(turn, "it failed", PATIENCE)

    loops(run).start()
    assert [turns.get(timeout=PATIENCE) for _ in range(2)] == [1, 2]


def test_a_loop_that_is_closed_just_before_a_turn_ends(loops: Callable[..., Loop]) -> None:
    """A loop that is closed between a turn's begin and its wait does not wait."""
    begun = threading.Event()

    def run(loop: Loop) -> None:
        def turn() -> None:
            begun.set()
            loop._closing.set()
            loop._woken.clear()  # as if the wake had come before

        loop.repeat(turn, "it failed", PATIENCE)

    loop = loops(run)
    loop.start()
    assert begun.wait(PATIENCE)
    thread = loop._thread
    assert thread is not None
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_turn_that_fails_is_reported_and_tried_again(
    loops: Callable[..., Loop], caplog: pytest.LogCaptureFixture
) -> None:
    """An error in a turn is logged, and the next turn comes."""
    again = threading.Event()
    count = 0

    def run(loop: Loop) -> None:
        def turn() -> None:
            nonlocal count
            count += 1
            if count == 1:
                raise ValueError("broken")
            again.set()

        loop.repeat(turn, "the test's work failed", 0.0)

    loops(run).start()
    assert again.wait(PATIENCE)
    assert "the test's work failed: broken" in caplog.text


def test_an_error_that_ends_a_thread_is_reported(
    loops: Callable[..., Loop], caplog: pytest.LogCaptureFixture
) -> None:
    """A thread never ends by an error without a word in the log."""

    def run(_: Loop) -> None:
        raise ValueError("broken")

    loop = loops(run)
    with caplog.at_level(logging.ERROR):
        loop.start()
        assert loop.close(PATIENCE)
    assert "the thread imagegate-test ended: broken" in caplog.text


def test_a_loop_may_close_itself(loops: Callable[..., Loop]) -> None:
    """A loop that is closed from its own thread does not wait for itself."""
    said: queue.SimpleQueue[bool] = queue.SimpleQueue()
    loop = loops(lambda loop: said.put(loop.close(PATIENCE)))
    loop.start()
    assert said.get(timeout=PATIENCE) is False


def test_background_work_after_the_end_is_refused() -> None:
    """What is added after `Background.close` is not done, and whoever adds it learns so."""
    background, done = Background(), threading.Event()
    assert background.add(done.set)
    assert done.wait(PATIENCE)
    background.close()
    assert not background.add(done.clear)
    assert done.is_set()


def test_pauses_grow_with_failures_in_a_row() -> None:
    """Each failure in a row takes the next pause, the last holds for all further, a success begins
    anew.
    """
    backoff = Backoff((0.0, 1.0, 5.0))
    assert [backoff.fail() for _ in range(5)] == [0.0, 1.0, 5.0, 5.0, 5.0]
    assert backoff.exhausted
    backoff.reset()
    assert not backoff.exhausted
    assert backoff.fail() == 0.0
