"""Makes a `Gate` of the node's inputs. Needs neither torch nor ComfyUI."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..core.model import Gate, parse_labels
from .inputs import check_timeout
from .parked.prompts import GATE_CLASSES


def gate_of(
    size: tuple[int, int, int],
    routes: int,
    labels: str,
    title: str,
    timeout: float,
    on_timeout: str,
    where: tuple[str, str],
    extra_pnginfo: Mapping[str, Any] | None,
    *,
    gather: bool = False,
) -> Gate:
    """The gate that asks.

    Args:
        size: images in the batch, height, width.
        where: the prompt's id, and the node's id in the front end.
    """
    prompt_id, node_id = where
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
    """The title that the author gave the node in the workflow, or one made from its id."""
    node = _node(node_id, extra_pnginfo)
    if node.get("type") in GATE_CLASSES and node.get("title"):
        return str(node["title"])
    return f"Image Gate {node_id}".strip()


def node_title(node_id: str, extra_pnginfo: object) -> str:
    """The title of any node in the workflow; empty if its author gave it none."""
    return str(_node(node_id, extra_pnginfo).get("title") or "")


def _node(node_id: str, extra_pnginfo: object) -> Mapping[str, Any]:
    """A node as the front end knows it.

    ComfyUI does not check what clients send as the workflow: anything odd costs only the title.
    """
    workflow = _mapping(_mapping(extra_pnginfo).get("workflow"))
    subgraphs = _records(_mapping(workflow.get("definitions")).get("subgraphs"))
    level, node = workflow, _mapping(None)
    for part in node_id.split(":"):  # "4:2" is node 2 of the subgraph that node 4 stands for
        node = _first(_records(level.get("nodes")), part)
        level = _first(subgraphs, str(node.get("type")))
    return node


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first(records: list[Mapping[str, Any]], wanted: str) -> Mapping[str, Any]:
    return next((record for record in records if str(record.get("id")) == wanted), {})


def _records(value: object) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []
