"""Text from outside as one printable line: refused in names, cleaned in notices, escaped in logs.

Standard library only, no other module of this package but `imagegate.text.labels`.
"""

from __future__ import annotations

import logging
import numbers
import re
import traceback
import unicodedata
from collections.abc import Mapping
from typing import Any

from .labels import shows

_JOINERS = "\u200c\u200d"
"""Characters that join letters and emoji; they do no harm where text is only read."""
_IGNORED = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
"""Characters that are drawn as nothing, though Unicode calls them letters and marks."""


def strange_in(text: str) -> str:
    """The first character that no printable line has, as code and name; empty if there is none.

    Not printable are controls, line and paragraph separators, format characters (directions, zero
    width), surrogates and unassigned code points.
    """
    for character in text:
        if character in _IGNORED or not character.isprintable():
            name = unicodedata.name(character, "a control character or none at all")
            return f"U+{ord(character):04X} ({name})"
    return ""


def name_of(text: str, most: int) -> str:
    """A name as it is kept: trimmed, with plain spaces.

    Raises:
        ValueError: it is not a usable name; the message says why.
    """
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in text).strip()
    if strange := strange_in(spaced):
        raise ValueError(f"a name is one printable line, in which {strange} cannot stand")
    if not 0 < len(spaced) <= most or not shows(spaced):
        raise ValueError(f"a name has 1 to {most} characters that can be seen")
    return spaced


def one_line(text: str, most: int) -> str:
    """``text`` as one printable line, cut if it is too long."""
    spaced = (
        character if character.isprintable() or character in _JOINERS
        else " " if unicodedata.category(character)[0] in "ZC"
        and unicodedata.category(character) not in ("Cf", "Cs")
        else "\ufffd" if unicodedata.category(character) == "Cs"
        else ""
        for character in text
    )  # fmt: skip
    line = " ".join("".join(spaced).split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def escaped(text: str) -> str:
    """``text`` with unprintable characters escaped as Python does: ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class EscapeArguments(logging.Filter):
    """Escapes whatever is logged beside the message itself, so that no text from outside makes a
    line of its own, moves the cursor or turns a line around.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, Mapping):
            record.args = {key: _shown(value) for key, value in record.args.items()}
        elif record.args:
            record.args = tuple(_shown(value) for value in record.args)
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            said = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            record.exc_text = "\n".join(map(escaped, re.split("\r?\n", said)))
        return True


class _Shown:
    """A value as it is logged. ``%r`` of a text escapes by itself."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return escaped(str(self._value))

    def __repr__(self) -> str:
        return escaped(repr(self._value))


def _shown(value: Any) -> Any:
    return value if isinstance(value, numbers.Number) else _Shown(value)
