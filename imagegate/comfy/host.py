"""What is used of ComfyUI beside the node and the web: its queue, its nodes, its folders.

With `gate` and `gate_server` the only module that knows ComfyUI; imports without it.
"""

from __future__ import annotations

import http.client
import json
import logging
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.failures import report_failure
from ..core.model import StoreError
from ..core.settings import Settings, read_names, read_settings
from ..gate_bus import GateBus
from ..http.sockets import address_in_network
from ..operator.service import Service
from ..storage.sql_storage import SqlStorage
from .resume import End, Refused
from .users import EXTRA_USER

EXTRA = ("extra_pnginfo", "preview_method", "comfy_usage_source", EXTRA_USER)
"""The extra data that a prompt needs to go on: what nodes write into files or read as a hidden
input, how previews are made, and whose it is. Nothing else is stored: logins, say, are in there."""
SUBMIT = 15.0
"""Seconds that ComfyUI may take to check a prompt; less than a claim holds."""

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
    """Where this ComfyUI remembers its gates: its user directory, unless told otherwise."""
    import folder_paths
    from server import PromptServer

    port = getattr(PromptServer.instance, "port", "")
    name = f"{socket.gethostname()}:{port}" if port else ""
    return read_settings(Path(folder_paths.get_user_directory()) / "imagegate", worker=name)


def node_classes() -> list[str]:
    """The classes of all nodes that this ComfyUI has."""
    import nodes

    return list(nodes.NODE_CLASS_MAPPINGS)


@dataclass(frozen=True)
class Running:
    """What a prompt was queued with: see `imagegate.storage.queries.runs.Parked`."""

    extra: Mapping[str, Any]
    targets: tuple[str, ...] = ()
    client: str = ""
    number: str = ""


def running(prompt_id: str, extra_pnginfo: Any) -> Running:
    """What the prompt that runs now was queued with."""
    try:
        from server import PromptServer

        items, _ = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    except (ImportError, AttributeError):
        items = []
    for item in items:
        if item[1] == prompt_id:
            extra = {key: item[3][key] for key in EXTRA if key in item[3]}
            client = str(item[3].get("client_id") or "")
            return Running(extra, tuple(str(target) for target in item[4]), client, str(item[0]))
    return Running({"extra_pnginfo": extra_pnginfo} if extra_pnginfo else {})


class ComfyQueue:
    """`imagegate.comfy.resume.PromptQueue` of the ComfyUI this runs in."""

    def __init__(self, server: Any) -> None:
        self._server = server
        # Its own port: neither a proxy nor a certificate has a say between a process and itself.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl._create_unverified_context()),  # noqa: S323
        )

    @property
    def ready(self) -> bool:
        """Whether it listens."""
        return hasattr(self._server, "port")

    def is_output(self, class_type: str) -> bool:
        """Whether nodes of this class are outputs."""
        import nodes

        # One that is gone counts: ComfyUI then refuses the prompt, and says so.
        known = nodes.NODE_CLASS_MAPPINGS.get(class_type)
        return known is None or getattr(known, "OUTPUT_NODE", False) is True

    def submit(self, request: Mapping[str, Any]) -> str:
        """Queue a prompt; see `PromptQueue.submit`."""
        call = urllib.request.Request(  # noqa: S310
            f"{self._base()}/prompt",
            json.dumps(request).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(call, timeout=SUBMIT) as answer:
                body = answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error) or type(error).__name__) from error
        except urllib.error.HTTPError as error:
            body = error.read()
            try:
                raise Refused(_said(json.loads(body)) or f"ComfyUI said {error.code}") from error
            except ValueError:
                text = body.decode("utf-8", "replace").strip()[:300]
                raise Refused(f"ComfyUI said {error.code} {text}".strip()) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                raise Refused(f"ComfyUI does not listen at {self._base()}") from error
            raise
        try:
            return _said(json.loads(body))
        except ValueError as error:
            raise Refused(
                f"{self._base()} does not answer as ComfyUI does; is a login in front of it?"
            ) from error

    def ended(self, prompt_id: str) -> End | None:
        """How a prompt ended; None while it is queued or runs."""
        queue = self._server.prompt_queue
        for _ in range(2):  # it may end between the two looks
            past = queue.get_history(prompt_id=prompt_id, map_function=lambda item: item["status"])
            if prompt_id in past:
                return _end(past[prompt_id])
            items = [item for part in queue.get_current_queue_volatile() for item in part]
            if any(item[1] == prompt_id for item in items):
                return None
        return End("it was removed from ComfyUI's queue", gone=True)

    def remove(self, prompt_id: str) -> bool:
        """Take a prompt out of the queue; False if it is not there any more."""
        queue = self._server.prompt_queue
        return bool(queue.delete_queue_item(lambda item: item[1] == prompt_id))

    def _base(self) -> str:
        # To itself, wherever it listens.
        return _address(self._server, {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"})  # noqa: S104


def panel_address(server: Any) -> str:
    """The panel's address as others in this network may call it; once ComfyUI listens."""
    here = address_in_network() or socket.gethostname()
    return _address(server, {"0.0.0.0": here, "::": here, "": here}) + "/imagegate/"  # noqa: S104


def _address(server: Any, instead: Mapping[str, str]) -> str:
    """Where ComfyUI listens. ``instead``: of addresses that stand for all of the machine's."""
    from comfy.cli_args import args

    scheme = "https" if args.tls_keyfile and args.tls_certfile else "http"
    host = instead.get(server.address, server.address)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}"


def _said(answer: Mapping[str, Any]) -> str:
    """ComfyUI's own words about what is wrong with a prompt; empty if nothing is."""
    found = []
    error = answer.get("error")
    if isinstance(error, Mapping):
        found.append(_one(error))
    elif error:
        found.append(str(error))
    for node_id, node in (answer.get("node_errors") or {}).items():
        which = f"{node.get('class_type', 'node')} {node_id}"
        found += [f"{which}: {_one(problem)}" for problem in node.get("errors", [])]
    return "; ".join(dict.fromkeys(found))[:1000]


def _one(error: Mapping[str, Any]) -> str:
    message, details = str(error.get("message", "")), str(error.get("details", "")).strip()
    return f"{message}: {details}" if details and details not in message else message


def _end(status: Mapping[str, Any] | None) -> End:
    status = status or {"completed": True}
    # Messages first: ComfyUI may call a prompt completed that it gave up.
    for kind, said in reversed(status.get("messages") or []):
        if kind == "execution_error":
            where = said.get("node_type", "a node")
            return End(f"{where}: {said.get('exception_message', '')}".strip())
        if kind == "execution_interrupted":
            return End("it was cancelled in ComfyUI", interrupted=True)
    return End() if status.get("completed") else End("ComfyUI did not finish it")
