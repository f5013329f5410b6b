"""The gates of a store that are waited for in this process, and their answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from ...core.bus import cancelled
from ...core.failures import report_failure
from ...core.model import Answer, Gate, ImageGateError, Snapshot, StoreError
from ...core.pictures import Pictures
from .opener import StoreOpener

TRIES = 10
"""Looks, about a second apart, for the mask of an answer that is not where it should be."""


@dataclass
class Waited:
    """A gate that is waited for in this process. ``failures``: to read its answer."""

    gate: Gate
    pictures: Pictures
    failures: int = 0


class WaitedGates:
    """What is waited for in this process. Thread-safe."""

    def __init__(self, opener: StoreOpener) -> None:
        self._opener = opener
        # Guards the gates. Nothing is read, written or called while it is held.
        self._lock = threading.Lock()
        self._gates: dict[str, Waited] = {}

    def add(self, waited: Waited) -> None:
        """Wait for a gate. Raises `ValueError` if it is waited for already."""
        with self._lock:
            if waited.gate.id in self._gates:
                raise ValueError(f"gate {waited.gate.id} is published already")
            self._gates[waited.gate.id] = waited

    def remove(self, gate_id: str) -> Waited | None:
        """Stop waiting for a gate; returns it, if it was waited for."""
        with self._lock:
            return self._gates.pop(gate_id, None)

    def get(self, gate_id: str) -> Waited | None:
        """A gate, if it is waited for."""
        with self._lock:
            return self._gates.get(gate_id)

    @property
    def ids(self) -> list[str]:
        """The ids of all gates that are waited for."""
        with self._lock:
            return list(self._gates)

    def result(
        self, snapshot: Snapshot, files: Mapping[int, str] | None = None
    ) -> Answer | ImageGateError | None:
        """What whoever waits for a gate that has ended gets, once.

        Args:
            files: of its masks by image, if they are known.

        Returns:
            None if nobody waits for it, or if the answer cannot be read yet.
        """
        gate_id, decision = snapshot.gate.id, snapshot.decision
        waited = self.get(gate_id)
        if waited is None:
            return None
        result: Answer | ImageGateError = cancelled(snapshot)
        if decision is not None and decision.route is not None:
            try:
                if files is None:
                    files = self._opener.store.gates.masks(gate_id)
                result = read_answer(self._opener, snapshot, files)
            except StoreError as error:
                title = snapshot.gate.title
                report_failure(f"gate {title!r} is answered, but its mask cannot be read", error)
                waited.failures += 1
                if not isinstance(error, _MaskGone) or waited.failures < TRIES:
                    self._opener.look_again()
                    return None
                result = error
        return result if self.remove(gate_id) is not None else None


def read_answer(opener: StoreOpener, snapshot: Snapshot, files: Mapping[int, str]) -> Answer:
    """The answer to a decided gate, with the masks in these files.

    Raises:
        StoreError: a mask is no longer kept, or cannot be read.
    """
    assert snapshot.decision is not None
    masks: dict[int, bytes] = {}
    for index, file in files.items():
        png = opener.store.picture_files.read(snapshot.gate.id, file) if file else b""
        if png is None:
            raise _MaskGone(f"the mask of gate {snapshot.gate.title!r} is no longer kept")
        masks[index] = png
    return Answer(snapshot.decision, masks)


class _MaskGone(StoreError):
    """The file of a mask is not where it should be."""
