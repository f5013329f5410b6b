"""A bus over a store for tests that are about something else: all in memory, gone with its test."""

from __future__ import annotations

import secrets
from typing import Any

from imagegate.settings import Settings
from imagegate.stored_bus import StoredBus


def stored_bus(**given: Any) -> StoredBus:
    """``given``: fields of `Settings` that shall differ. Close it when done."""
    place = f"memory://{secrets.token_hex(8)}"
    settings = Settings(**{"store": "sqlite://", "pictures": place, "worker": "here", **given})
    return StoredBus(lambda: settings, classes=lambda: ["ImageGate"])
