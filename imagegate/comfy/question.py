"""What a gate asks: its inputs checked, and made into a `Gate`. Knows neither torch nor ComfyUI."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..core.model import MAX_ROUTES, Gate, parse_labels
from ..core.prompts import GATE_CLASSES

ON_TIMEOUT = ["stop", *(f"route {i}" for i in range(1, MAX_ROUTES + 1))]
MAX_TIMEOUT = 30 * 24 * 3600
WAIT, PARK = MODES = ["wait", "park"]
ASK_AGAIN, REUSE = REPEAT = ["ask again", "reuse decision"]
KEEP_PLACES, GATHER = LISTS = ["keep places", "gather"]


def check_timeout(timeout: float, on_timeout: str, routes: int) -> int | None:
    """The route, 1-based, taken after ``timeout`` seconds; None for stop, or for no timeout.

    Raises:
        ValueError: the time is out of range, or there is no such route.
    """
    if not 0 <= timeout <= MAX_TIMEOUT:
        raise ValueError(f"timeout is {timeout} s; allowed are 0 (never) to {MAX_TIMEOUT}")
    if timeout == 0:
        return None
    allowed = ON_TIMEOUT[: routes + 1]
    if on_timeout not in allowed:
        raise ValueError(f"on_timeout is {on_timeout!r}; allowed are {', '.join(allowed)}")
    return allowed.index(on_timeout) or None


def check_choice(name: str, given: str, allowed: list[str]) -> str:
    """What was given, if it is allowed.

    Raises:
        ValueError: it is not.
    """
    if given not in allowed:
        raise ValueError(f"{name} is {given!r}; allowed are {', '.join(allowed)}")
    return given


def question(
    size: tuple[int, int, int],
    routes: int,
    labels: str,
    title: str,
    timeout: float,
    on_timeout: str,
    place: tuple[str, str],
    extra_pnginfo: Mapping[str, Any] | None,
    *,
    gather: bool = False,
) -> Gate:
    """The gate that asks.

    Args:
        size: images in the batch, height, width.
        place: the prompt's id, and that of the node as the front end knows it.
    """
    prompt_id, node_id = place
    now = time.time()
    workflow = _mapping(_mapping(extra_pnginfo).get("workflow"))
    batch, height, width = size
    return Gate(
        labels=parse_labels(labels, routes),
        width=width,
        height=height,
        batch=batch,
        title=title.strip() or gate_title(node_id, extra_pnginfo),
        node_id=node_id,
        prompt_id=prompt_id,
        workflow_id=str(workflow.get("id") or ""),
        created_at=now,
        deadline=now + timeout if timeout > 0 else None,
        on_timeout=check_timeout(timeout, on_timeout, routes),
        gather=gather,
    )


def gate_title(node_id: str, extra_pnginfo: object) -> str:
    """The title the author gave the node in the workflow, or one made from its id."""
    node = _node(node_id, extra_pnginfo)
    if node.get("type") in GATE_CLASSES and node.get("title"):
        return str(node["title"])
    return f"Image Gate {node_id}".strip()


def node_title(node_id: str, extra_pnginfo: object) -> str:
    """The title of any node in the workflow; empty if its author gave it none."""
    return str(_node(node_id, extra_pnginfo).get("title") or "")


def _node(node_id: str, extra_pnginfo: object) -> Mapping[str, Any]:
    """A node as the front end knows it.

    What clients send as workflow is not checked by ComfyUI: anything strange costs the title only.
    """
    workflow = _mapping(_mapping(extra_pnginfo).get("workflow"))
    subgraphs = _records(_mapping(workflow.get("definitions")).get("subgraphs"))
    place, node = workflow, _mapping(None)
    for part in node_id.split(":"):  # "4:2" is node 2 of the subgraph that node 4 stands for
        node = _first(_records(place.get("nodes")), part)
        place = _first(subgraphs, str(node.get("type")))
    return node


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first(records: list[Mapping[str, Any]], wanted: str) -> Mapping[str, Any]:
    return next((record for record in records if str(record.get("id")) == wanted), {})


def _records(value: object) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []
