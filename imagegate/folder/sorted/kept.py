"""Records of what a decision is about and what it left in the sorted folder."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ..attributes import Attributes
from .journal import Entry


@dataclass(frozen=True, slots=True)
class Kept:
    """What one decision put into the sorted folder, to which ``out`` and ``mask`` are relative.

    ``folder`` is where ``file`` came from, as an absolute path; empty in older journals.
    ``made``: the file was put there, and not found there with the same content.
    ``size`` (bytes) and ``mtime_ns`` are those of the original when it was decided, ``width`` and
    ``height`` what people saw, 0 in older journals. ``lost``: attributes that a moved original had
    and the kept file has not. ``gate`` is the gate's id, ``click`` names the click.
    """

    folder: str
    file: str
    sha256: str
    out: str
    mask: str | None
    made: bool
    moved: bool
    size: int
    mtime_ns: int
    width: int = 0
    height: int = 0
    gate: str = ""
    click: str = ""
    lost: Attributes = field(default_factory=dict)

    @classmethod
    def of(cls, line: Entry) -> Kept:
        """The record in a line of the journal."""
        return cls(**{name: line[name] for name in _KEPT})


_KEPT = tuple(each.name for each in fields(Kept))


@dataclass(frozen=True)
class Original:
    """A file to be decided, and the gate that asks about it."""

    folder: str
    file: str
    gate: str = ""
    width: int = 0
    height: int = 0
