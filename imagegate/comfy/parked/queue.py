"""ComfyUI's queue, as prompts that go on need it: queue one, see how it ended, take it out."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from ...http.sockets.listening import address_in_network
from ..host import is_output, speaks_https
from .resume import End, PromptRefused

SUBMIT = 15.0
"""Seconds that ComfyUI may take to check a prompt; less than a claim holds."""


class ComfyQueue:
    """`imagegate.comfy.parked.resume.PromptQueue` of the ComfyUI this runs in."""

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
        return is_output(class_type)

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
                raise PromptRefused(
                    _complaints(json.loads(body)) or f"ComfyUI said {error.code}"
                ) from error
            except ValueError:
                text = body.decode("utf-8", "replace").strip()[:300]
                raise PromptRefused(f"ComfyUI said {error.code} {text}".strip()) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                raise PromptRefused(f"ComfyUI does not listen at {self._base()}") from error
            raise
        try:
            return _complaints(json.loads(body))
        except ValueError as error:
            raise PromptRefused(
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
    scheme = "https" if speaks_https() else "http"
    host = instead.get(server.address, server.address)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}"


def _complaints(answer: Mapping[str, Any]) -> str:
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
