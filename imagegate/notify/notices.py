"""Notifies people of gates that have waited for long, through Apprise, if it is installed and set.

A worker notifies people of the gates that it published itself, including parked ones of its
earlier processes. A panel on its own (``gradio_app.py``, over a folder or a store) notifies nobody:
somebody sits there, or the workers do it.

People are notified of a gate once, and again if it waits again: when its answer was taken back,
when it could not go on, when its worker came back to life. The notice is an entry in the gate's
history, so a restart changes nothing. A notice that a service did not accept is tried again after
the next restart.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from ..core.failures import report_failure
from ..core.loop import Loop
from ..core.news import Subscription
from ..core.pictures import Picture, Pictures
from ..core.settings import NoticeSettings
from ..gate_bus import GateBus
from ..storage.sql_storage import SqlStorage
from .apprise import THREAD, Messenger, services
from .wording import Message, Waits, message

APART = 10
"""More gates than this at once, such as a list of images, always go into one notice."""
RETRY = 5.0
"""Seconds before a store that failed is read again."""
LAST_SECONDS = 1.0
"""Seconds in which a service may finish what it is sending when notices end."""
MOST_HANDED = 10_000
"""The most gates whose notices are remembered."""

NOT_INSTALLED = "IMAGEGATE_NOTIFY is set, but no notices are sent: pip install apprise (%s)"
BROKEN = "IMAGEGATE_NOTIFY is set, but no notices are sent: Apprise failed (%s)"

log = logging.getLogger("imagegate")


class Notices:
    """Threads that notify people, until closed. No gate waits for them.

    The store is not opened for this, but read once somebody else has opened it.

    Args:
        bus: the bus whose gates count.
        storage: its storage.
        url: returns the panel's address, for settings that name none.
    """

    def __init__(
        self,
        bus: GateBus[Pictures],
        storage: SqlStorage,
        settings: NoticeSettings,
        url: Callable[[], str] = str,
    ) -> None:
        self._bus = bus
        self._storage = storage
        self._settings = settings
        self._url = url
        self._loop = Loop(THREAD, self._run)
        # All below belongs to that thread alone, except what went out, which the lock guards.
        self._messengers: list[Messenger] = []
        self._due: dict[str, float] = {}  # gate id -> when its notice is due (monotonic)
        self._order: list[tuple[float, str]] = []  # the same as a heap; may hold outdated entries
        self._handed: dict[str, _Handed] = {}
        self._blind = True  # whether more gates may wait than are known
        self._failing = False
        self._lock = threading.Lock()
        self._went_out: dict[str, str] = {}  # gate id -> the service's name

    def start(self) -> None:
        """Begin, if there is anybody to notify."""
        if self._settings.addresses:
            self._loop.start()

    def close(self) -> None:
        """End soon, whatever the services do."""
        self._loop.close(LAST_SECONDS + 2)

    # -- the thread

    def _run(self) -> None:
        try:
            found = services(self._settings.addresses)
        except ImportError as error:
            log.warning(NOT_INSTALLED, error)
            return
        except Exception as error:  # its message may hold an address
            log.warning(BROKEN, type(error).__name__)
            return
        if not found:
            return
        self._messengers = [Messenger(self, schema, send) for schema, send in found]
        for messenger in self._messengers:
            messenger.start()
        with self._bus.subscribe(self._loop.wake) as news:

            def turn() -> float | None:
                self._try(news)
                return self._rest()

            self._loop.repeat(turn, "notices have to wait", RETRY)
        until = time.monotonic() + LAST_SECONDS
        for messenger in self._messengers:
            messenger.leave(until)
        self._try(None)

    def _try(self, news: Subscription | None) -> None:
        try:
            if news is not None:
                self._hear(news)
            if self._storage.opened:
                self._record()
                if news is not None:
                    self._look()
                    self._hand_over()
            self._failing = False
        except Exception as error:  # it is tried again, so one failure must not end it
            self._blind = True
            if self._storage.opened:
                report_failure("notices have to wait", error)
            self._failing = True

    def _rest(self) -> float | None:
        """Seconds until something is due, if nothing happens before; None for never."""
        if self._failing:
            return RETRY
        head = self._head()
        if head is None:
            return None
        return max(0.0, head - time.monotonic())

    def _head(self) -> float | None:
        """When the next notice goes out."""
        while self._order and self._due.get(self._order[0][1]) != self._order[0][0]:
            heapq.heappop(self._order)
        return self._order[0][0] + self._settings.digest if self._order else None

    def _notify_at(self, gate_id: str, due: float) -> None:
        self._due[gate_id] = due
        heapq.heappush(self._order, (due, gate_id))

    def _hear(self, news: Subscription) -> None:
        """Read the news: some gates wait from now on, others no longer do."""
        found, missed = news.drain()
        self._blind = self._blind or missed
        now = time.monotonic()
        for item in found:
            gate = item.gate
            if not gate.state.open:
                self._due.pop(gate.gate.id, None)
            elif item.kind == "published" and gate.gate.worker == self._storage.store.name:
                self._notify_at(gate.gate.id, now + self._settings.after)

    def _look(self) -> None:
        """Find all gates that wait, if more may wait than are known."""
        if not self._blind:
            return
        found, now = self._storage.store.unnotified(), time.monotonic()
        self._due.clear()
        self._order.clear()
        for one in found:
            if not self._has(one.gate_id, one.asked):
                self._notify_at(one.gate_id, now + self._settings.after - max(0.0, one.age))
        self._blind = False

    def _hand_over(self) -> None:
        """Hand the gates that have waited long enough, and still wait, to the services."""
        head, now = self._head(), time.monotonic()
        if head is None or head > now:
            return
        ripe = [gate_id for gate_id, due in self._due.items() if due <= now]
        found = self._storage.store.unnotified(ripe)
        for gate_id in ripe:
            del self._due[gate_id]
        ready: dict[str, float] = {}
        for one in found:
            age = max(0.0, one.age)
            if self._has(one.gate_id, one.asked):
                continue
            if age < self._settings.after:  # it waits again, since a moment ago
                self._notify_at(one.gate_id, now + self._settings.after - age)
                continue
            ready[one.gate_id] = now - age
            self._handed.pop(one.gate_id, None)  # the newest stands last
            self._handed[one.gate_id] = _Handed(one.asked)
        while len(self._handed) > max(MOST_HANDED, len(ready)):
            del self._handed[next(iter(self._handed))]
        for messenger in self._messengers if ready else ():
            messenger.notify(ready)

    def _has(self, gate_id: str, asked: int) -> bool:
        """Whether the services have been given this gate since it was last published."""
        handed = self._handed.get(gate_id)
        return handed is not None and handed.asked == asked

    def _record(self) -> None:
        """Record which gates people were notified of, once each for all services."""
        with self._lock:
            out, self._went_out = self._went_out, {}
        try:
            for schema in sorted(set(out.values())):
                ids = [i for i, by in out.items() if by == schema and not self._is_written(i)]
                if ids:
                    self._storage.store.notified.add(ids, f"by {schema}")
                for gate_id in ids:
                    if gate_id in self._handed:
                        self._handed[gate_id].written = True
        except BaseException:
            with self._lock:
                self._went_out = out | self._went_out
            raise

    def _is_written(self, gate_id: str) -> bool:
        handed = self._handed.get(gate_id)
        return handed is not None and handed.written

    # -- what messengers need

    @property
    def closing(self) -> bool:
        """Whether this is to end."""
        return self._loop.closing

    def parts(self, gate_ids: Collection[str]) -> Iterable[Collection[str]]:
        """These gates, grouped into notices: a digest, or one each unless there are many."""
        if self._settings.digest or len(gate_ids) > APART:
            return [gate_ids]
        return [[gate_id] for gate_id in gate_ids]

    def still(self, since: Mapping[str, float]) -> list[Waits]:
        """Which of these gates are still open, the oldest first."""
        found = [gate for gate in self._storage.store.gates.several(list(since)) if gate.state.open]
        found.sort(key=lambda gate: gate.seq)
        now = time.monotonic()
        return [Waits(gate, now - since[gate.gate.id]) for gate in found]

    def write(self, waiting: list[Waits]) -> tuple[Message, Picture | None]:
        """The notice of these gates, with the image of a single one if that is allowed."""
        picture = None
        if self._settings.image and len(waiting) == 1:
            picture = self._picture(waiting[0].gate.gate.id)
        return message(waiting, self._settings.url or self._url()), picture

    def went_out(self, gate_ids: Collection[str], schema: str) -> None:
        """Called when a service has accepted a notice of these gates."""
        with self._lock:
            self._went_out = dict.fromkeys(gate_ids, schema) | self._went_out
        self._loop.wake()

    def _picture(self, gate_id: str) -> Picture | None:
        try:
            pictures = self._bus.pictures(gate_id)
            return pictures.preview(0) if pictures is not None else None
        except Exception as error:  # the notice matters more
            log.info("a notice goes out without its image: %s", error)
            return None


@dataclass
class _Handed:
    """A gate that the services were given.

    Attributes:
        asked: as in `Unnotified`.
        written: whether its history says so.
    """

    asked: int
    written: bool = False
