"""Sends notices through a service. The only module that imports Apprise, once it is used."""

from __future__ import annotations

import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from ..core.loop import Backoff, Loop
from ..core.model import ImageGateError
from ..core.pictures import Picture
from .wording import Message, Waits

PAUSES = (2.0, 10.0, 60.0)
"""Seconds before a service that failed is tried again. After the last, it is given up."""
THREAD = "imagegate-notices"
"""The start of the names of all threads in which Apprise is called."""

NOT_SENT = (
    "%s did not take a notice of what waits (%d), which is given up: %s; to see more, try its "
    "address with: apprise -vv -b test ADDRESS"
)

log = logging.getLogger("imagegate")

Send = Callable[[Message, "Picture | None"], bool]
"""Sends a notice; False if the service did not take it."""


class Desk(Protocol):
    """What messengers need of `imagegate.notify.notices.Notices`."""

    @property
    def closing(self) -> bool:
        """Whether they are to end."""

    def parts(self, gate_ids: Collection[str]) -> Iterable[Collection[str]]:
        """These gates, grouped into notices."""

    def still(self, since: Mapping[str, float]) -> list[Waits]:
        """Which of these gates are still open. Raises `ImageGateError`."""

    def write(self, waiting: list[Waits]) -> tuple[Message, Picture | None]:
        """The notice of these gates, and its image."""

    def went_out(self, gate_ids: Collection[str], schema: str) -> None:
        """Called when a service has accepted a notice of these gates."""


class Messenger:
    """One service and its thread, so that a slow or failing service holds up no other.

    Args:
        schema: the scheme of its address, the only part that is ever shown.
    """

    def __init__(self, desk: Desk, schema: str, send: Send) -> None:
        self._desk = desk
        self._schema = schema
        self._send = send
        # Guards what waits to be sent: gate id -> since when it waits (monotonic).
        self._changed = threading.Condition()
        self._waiting: dict[str, float] = {}
        self._loop = Loop(f"{THREAD}-{schema}", self._run, waker=self._notify)

    def start(self) -> None:
        """Begin."""
        self._loop.start()

    def notify(self, since: Mapping[str, float]) -> None:
        """Also notify people of these gates."""
        with self._changed:
            self._waiting |= since
            self._changed.notify_all()

    def leave(self, until: float) -> None:
        """End, because the desk is closing; wait for that until a time (monotonic) at most."""
        self._loop.close(max(0.0, until - time.monotonic()))

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _take(self) -> dict[str, float]:
        """Wait for gates to send, and take them all; empty when this ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ends)
            taken, self._waiting = self._waiting, {}
        return {} if self._ends else taken

    @property
    def _ends(self) -> bool:
        return self._loop.closing or self._desk.closing

    def _run(self) -> None:
        backoff = Backoff(PAUSES)
        while since := self._take():
            why = self._deliver(since)
            if not since:
                backoff.reset()
            elif backoff.exhausted:
                log.warning(NOT_SENT, self._schema, len(since), why)
                backoff.reset()
            else:
                with self._changed:  # with what came meanwhile
                    self._waiting = since | self._waiting
                if self._loop.pause(backoff.fail()):
                    return

    def _deliver(self, since: dict[str, float]) -> str:
        """Send what still waits, and remove it from ``since``; returns why any is left there."""
        for part in self._desk.parts(list(since)):
            if self._ends:
                since.clear()
                break
            try:
                waiting = self._desk.still({gate_id: since[gate_id] for gate_id in part})
                _heard.code = ""
                if waiting and not self._send(*self._desk.write(waiting)):
                    code = _heard.code
                    return f"it answered {code}" if code else "Apprise could not send it"
            except ImageGateError as error:
                return str(error)
            except Exception as error:  # of any service's own; what it says may hold a secret
                return type(error).__name__
            if waiting:
                self._desk.went_out([waits.gate.gate.id for waits in waiting], self._schema)
            for gate_id in part:
                del since[gate_id]
        return ""


def services(addresses: str) -> list[tuple[str, Send]]:
    """The services at Apprise's addresses, each with its scheme.

    Raises:
        ImportError: Apprise is not installed.
    """
    import apprise

    for name in ("apprise", "urllib3.connectionpool"):
        logging.getLogger(name).addFilter(_DISCREET)
    # Else newer ones send from threads of their own, for which Python waits when it ends.
    settings: dict[str, Any] = {"async_mode": False}
    if hasattr(apprise.AppriseAsset, "_service_timeout"):
        settings["service_timeout"] = 0
    asset = apprise.AppriseAsset(app_id="ImageGate", app_desc="Image Gate", **settings)
    known = apprise.Apprise(asset=asset)
    all_known = known.add(addresses)
    found = [(one.schema, _sender(apprise.Apprise(one, asset=asset))) for one in known]
    if not all_known:
        understood = ", ".join(schema for schema, _ in found) or "none"
        log.warning(
            "IMAGEGATE_NOTIFY holds an address that Apprise does not understand; it understood %s",
            understood,
        )
    return found


def _sender(service: Any) -> Send:
    from apprise import AppriseAttachment, NotifyFormat

    def send(message: Message, picture: Picture | None) -> bool:
        given: dict[str, Any] = {"title": message.title, "body_format": NotifyFormat.TEXT}
        with ExitStack() as stack:
            if picture is not None:  # as a file: not every service can do with less
                folder = tempfile.TemporaryDirectory(
                    prefix="imagegate-", ignore_cleanup_errors=True
                )
                file = Path(stack.enter_context(folder), _file_name(picture))
                file.write_bytes(picture.body)
                given["attach"] = AppriseAttachment(str(file))
            return bool(service.notify(message.body, **given))

    return send


def _file_name(picture: Picture) -> str:
    return f"preview.{picture.media_type.rpartition('/')[2]}"


class _Heard(threading.local):
    """The HTTP status with which a service answered in this thread."""

    code = ""


class _Discreet(logging.Filter):
    """Drops what others log while a notice is sent: it may show an address."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not threading.current_thread().name.startswith(THREAD):
            return True
        if status := re.search(r"error=(\d{3})\b", record.getMessage()):
            _heard.code = status[1]
        return False


_heard = _Heard()
_DISCREET = _Discreet()
