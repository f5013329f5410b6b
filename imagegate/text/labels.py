"""Labels of routes: how they are written, which are visible, how equal ones are distinguished.

Standard library only, no other module of this package.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# A label in double quotes may have commas, and a double quote that is written twice. The front end
# (web/) splits labels by the same rules.
_WRITTEN = re.compile(r'[^\S\n]*"((?:[^"\n]|"")*)"[^\S\n]*(?=[,\n]|\Z)|([^,\n]*)')

_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0\U0001d159")
"""Letters and signs that are drawn as nothing: Hangul fillers, the empty Braille cell, and a
notehead."""
_INVISIBLE = ("Z", "M", "Cc", "Cf", "Cs")
"""What shows nothing by itself: separators, combining marks, controls, format characters."""


def split_labels(text: str) -> list[str]:
    """The labels in a text that separates them by commas or line breaks, trimmed.

    A label in double quotes may have commas in it; a double quote in it is then written twice.
    """
    labels, at = [], 0
    while True:
        found = _WRITTEN.match(text, at)
        assert found is not None  # it matches nothing, too
        quoted, bare = found.groups()
        labels.append((bare if quoted is None else quoted.replace('""', '"')).strip())
        at = found.end() + 1
        if at > len(text):
            return labels


def shows(text: str) -> bool:
    """Whether a text has any visible character."""
    return any(
        character not in _BLANK and not unicodedata.category(character).startswith(_INVISIBLE)
        for character in text
    )


def visible(text: str) -> str:
    """A text as a person sees it, for comparison: texts that look the same come out the same."""
    composed = unicodedata.normalize("NFC", text)
    drawn = (
        " " if unicodedata.category(character).startswith("Z") else character
        for character in composed
        if character not in _BLANK and unicodedata.category(character) not in ("Cc", "Cf", "Cs")
    )
    return " ".join("".join(drawn).split())


def told_apart(labels: Sequence[str], route: int) -> str:
    """The label of a route (1-based), with its number if another label looks the same."""
    label = labels[route - 1]
    seen = visible(label)
    numbers = {str(number) for number in range(1, len(labels) + 1)} - {str(route)}
    alike = sum(visible(other) == seen for other in labels)
    return f"{route} · {label}" if alike > 1 or seen in numbers else label
