"""Adds gates to a store, also where the store fails before it confirms them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ...core.model import Gate, Snapshot, StoreError
from .opener import StoreOpener

if TYPE_CHECKING:  # it brings SQLAlchemy
    from ..open_store import Written


class Additions:
    """Adds this process's gates to a store. Thread-safe."""

    def __init__(self, opener: StoreOpener) -> None:
        self._opener = opener
        self._lock = threading.Lock()  # guards the next
        self._unsure: set[str] = set()  # gates of which it is not known whether they were stored

    def add(self, gate: Gate, written: Written, **given: Any) -> Snapshot:
        """Add a gate whose files are written. They stay where it is not known whether it was added.

        Args:
            given: see `GateStore.add`.

        Raises:
            ValueError: there is a gate of this id already.
        """
        opener = self._opener
        gates = opener.store.gates
        try:
            return gates.add(gate, worker=opener.id, size=written.size, **given)
        except ValueError:  # the files belong to the gate that was there
            written.stay = True
            raise
        except StoreError:
            try:
                found = gates.several([gate.id])
            except StoreError:
                written.stay = True
                with self._lock:
                    self._unsure.add(gate.id)
                opener.look_again()
                found = []
            if not found:
                raise
            return found[0]  # only the confirmation was lost

    def failed(self) -> list[str]:
        """Ids of gates that were added after all, though their prompts have failed.

        The files of those that were not added are removed.
        """
        store = self._opener.store
        with self._lock:
            unsure = list(self._unsure)
        added = []
        for gate_id in unsure:
            if store.gates.several([gate_id]):
                added.append(gate_id)
            else:
                store.picture_files.remove(gate_id)
                self.settle(gate_id)
        return added

    def settle(self, gate_id: str) -> None:
        """Record that it is known what became of this gate."""
        with self._lock:
            self._unsure.discard(gate_id)
