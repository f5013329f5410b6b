"""Gate ids that are the same in every session, and that nobody can guess without the key."""

from __future__ import annotations

import base64
import hmac
import secrets

from ..tree import Tree

KEY_BYTES = 32


def read_key(out: Tree, file: str) -> bytes:
    """The key of a sorted folder; made if it has none. Raises `OSError`."""
    try:
        with out.open(file) as opened:
            key = opened.read()
        if len(key) == KEY_BYTES:
            return key
        out.unlink(file)  # cut off
    except FileNotFoundError:
        pass
    key = secrets.token_bytes(KEY_BYTES)
    out.write_new(file, key, 0o600)
    out.sync("")
    return key


def gate_id(key: bytes, what: str) -> str:
    """The gate id (128 bits, URL-safe) that stands for ``what``."""
    code = hmac.digest(key, what.encode("utf-8", "surrogatepass"), "sha256")[:16]
    return base64.urlsafe_b64encode(code).rstrip(b"=").decode()
