"""The bus over a store, as a process of ComfyUI or a panel uses it."""

from __future__ import annotations

from collections.abc import Callable, Collection

from .core.pictures import Pictures
from .core.settings import Settings
from .gate_bus import GateBus
from .storage.sql_storage import SqlStorage


class StoredBus(GateBus[Pictures]):
    """A `GateBus` whose gates are kept by a `SqlStorage`. What only a store can do is asked of it.

    Args:
        settings, kind, classes: see `SqlStorage`.
    """

    storage: SqlStorage

    def __init__(
        self,
        settings: Callable[[], Settings],
        *,
        kind: str = "comfyui",
        classes: Callable[[], Collection[str]] = tuple,
    ) -> None:
        super().__init__(SqlStorage(settings, kind=kind, classes=classes))

    def close(self) -> None:
        """Take back what is waited for here, and leave the store."""
        self.storage.close()
