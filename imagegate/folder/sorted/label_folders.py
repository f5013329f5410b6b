"""The place of decided files in the sorted folder: a subfolder for each label."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from ...core.model import ImageGateError

_UNSAFE = re.compile(r'[<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?|decisions\.(jsonl|torn)", re.I)


class BadFolder(ImageGateError, ValueError):
    """The session cannot start; the message says what is wrong."""


def folder_names(labels: Sequence[str]) -> tuple[str, ...]:
    """A folder name for each label: the label itself, if it is valid on every system.

    Characters that are invalid on some system are replaced, and such a name ends with a few
    characters of the label's hash, so that each label always has the same folder of its own.

    Raises:
        BadFolder: two labels are equal, or differ only in upper and lower case, which some
            systems do not distinguish.
    """
    names = tuple(_folder_name(label) for label in labels)
    seen: dict[str, str] = {}
    for label, name in zip(labels, names, strict=True):
        if name.casefold() in seen:
            raise BadFolder(
                f"labels {seen[name.casefold()]!r} and {label!r} would share the folder {name!r}; "
                "labels must differ by more than upper and lower case"
            )
        seen[name.casefold()] = label
    return names


def _folder_name(label: str) -> str:
    name = unicodedata.normalize("NFC", label)
    safe = "".join("_" if unicodedata.category(c)[0] == "C" else c for c in name)
    safe = _UNSAFE.sub("_", safe).lstrip(". ").rstrip(". ")[:60].rstrip(". ")
    if _RESERVED.fullmatch(safe):
        safe = f"_{safe}"
    if safe and safe == name:
        return safe
    mark = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{safe or 'route'}~{mark}"


def names_in(label_folder: str, file: str) -> Iterator[str]:
    """Names that a file may get, the best first; it keeps its subfolder below the label."""
    path = PurePosixPath(label_folder) / file
    yield str(path)
    number = 1
    while True:
        number += 1
        yield str(path.with_name(f"{path.stem} ({number}){path.suffix}"))
