"""Pages of lists: their length, and where the next one starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Query

from ..core.model import BadAnswer

PAGE_SIZE = 50
MAX_PAGE_SIZE = 500

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)]


def page_of(
    gates: list[dict[str, Any]],
    keys: list[int],
    limit: int,
    cursor: Callable[[int], str] = str,
) -> dict[str, Any]:
    """A page of a list that was read one gate beyond the page's end.

    ``cursor``: turns the key of the page's last gate into text.
    """
    more = len(gates) > limit
    return {"gates": gates[:limit], "next": cursor(keys[limit - 1]) if more else None}


def cursor_of(text: str) -> int | None:
    """The key after which a page starts; None for the first page. Raises `BadAnswer`."""
    if not text:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise BadAnswer(f"cursor is {text!r}; give the 'next' of the page before")
    return int(text)
