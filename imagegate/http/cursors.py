"""Cursors of lists for people who see some gates only. Standard library only."""

from __future__ import annotations

import hmac
import secrets

from ..core.model import BadAnswer

_HALF = 8
"""Bytes of each part of a cursor: the nonce, the hidden number, and the signature."""


class Cursors:
    """Turns numbers into text that only this process can read. Thread-safe.

    A list continues after a number that counts all gates of a bus. Somebody who sees only some of
    them could read from it how many others there are. (The id of the last gate would not do: a
    gate that was reopened, or dropped from the store, no longer marks a position in the list.)
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def seal(self, number: int) -> str:
        """The number as text, a different one each time."""
        nonce = secrets.token_bytes(_HALF)
        hidden = nonce + self._mixed(number.to_bytes(_HALF, "big"), nonce)
        return (hidden + self._made(b"whole", hidden)).hex()

    def open(self, text: str) -> int | None:
        """The number in a text; None for an empty one. Raises `BadAnswer`."""
        if not text:
            return None
        try:
            given = bytes.fromhex(text)
        except ValueError:
            given = b""
        hidden, sign = given[: 2 * _HALF], given[2 * _HALF :]
        if not hmac.compare_digest(self._made(b"whole", hidden), sign):
            raise BadAnswer("that is not a cursor; give the 'next' of the page before")
        return int.from_bytes(self._mixed(hidden[_HALF:], hidden[:_HALF]), "big")

    def _mixed(self, number: bytes, nonce: bytes) -> bytes:
        return bytes(a ^ b for a, b in zip(number, self._made(b"hide", nonce), strict=True))

    def _made(self, use: bytes, of: bytes) -> bytes:
        return hmac.digest(self._key, use + of, "sha256")[:_HALF]
