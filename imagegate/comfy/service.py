"""The one service of this ComfyUI: its bus, its store, its panel."""

from __future__ import annotations

import logging
import socket
import threading

from ..core.failures import report_failure
from ..core.model import StoreError
from ..core.settings import Settings, read_names, read_settings
from ..gate_bus import GateBus
from ..operator.service import Service
from ..storage.sql_storage import SqlStorage
from .host import node_classes, own_port, user_folder

_shared_lock = threading.Lock()
_shared: Service | None = None


def shared_service() -> Service:
    """The one service of this process, made on first use."""
    global _shared
    with _shared_lock:
        if _shared is None:
            storage = SqlStorage(settings, classes=node_classes)
            _shared = Service(GateBus(storage), storage, names=_names())
        return _shared


def _names() -> tuple[str, ...]:
    try:
        return read_names()
    except StoreError as error:  # a gate waits as well without
        report_failure("", error, level=logging.ERROR)
        return ()


def settings() -> Settings:
    """Where this ComfyUI remembers its gates: its user directory, unless set otherwise."""
    port = own_port()
    name = f"{socket.gethostname()}:{port}" if port else ""
    return read_settings(user_folder() / "imagegate", worker=name)
