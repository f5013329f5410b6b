"""What the panel, REST and ComfyUI's side need of a bus, whatever remembers the gates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from .model import ALL, Selection, Snapshot, Verdict
from .news import Subscription
from .pictures import Pictures
from .viewers import Viewers


class Bus(Protocol):
    """`imagegate.gate_bus.GateBus` says what each of these does, returns and raises."""

    @property
    def viewers(self) -> Viewers: ...

    def decide(
        self,
        gate_id: str,
        route: object,
        *,
        by: str = "",
        note: str = "",
        link: str = "",
        key: str = "",
    ) -> Verdict: ...

    def stop(self, gate_id: str, *, by: str = "", note: str = "") -> Verdict: ...

    def undo(self, gate_id: str, *, link: str = "") -> Snapshot: ...

    def set_mask(self, gate_id: str, index: int, png: bytes) -> Snapshot: ...

    def get(self, gate_id: str) -> Snapshot: ...

    def pictures(self, gate_id: str) -> Pictures | None: ...

    def mask(self, gate_id: str, index: int) -> bytes | None: ...

    def pending(
        self,
        limit: int | None = None,
        after: int = 0,
        among: Selection = ALL,
    ) -> list[Snapshot]: ...

    def finished(
        self,
        limit: int | None = None,
        before: int | None = None,
        among: Selection = ALL,
    ) -> list[Snapshot]: ...

    def count(self, among: Selection = ALL) -> int: ...

    def answered(self, links: Collection[str]) -> dict[str, int]: ...

    def subscribe(self, notify: Callable[[], None] = ..., *, limit: int = ...) -> Subscription: ...


class Line(Protocol):
    """One line of a gate's history."""

    def to_json(self) -> dict[str, Any]: ...


class Records(Protocol):
    """What a store knows beyond a bus; see `imagegate.storage.stored_bus.StoredBus`."""

    def lines(self, gate_id: str) -> Sequence[Line]: ...

    def status(self) -> dict[str, Any]: ...

    def ask_again(self, gate_id: str) -> Snapshot: ...
