"""Prompts in ComfyUI's API format, and what a gate changes about one to go on. Standard library."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from .model import MAX_ROUTES

Prompt = Mapping[str, Mapping[str, Any]]

NODE_CLASS = "ImageGate"
NOT_YET = "wait:"
"""Stands before the id of a gate whose answer a prompt shall not use. (No id has a colon.)"""


def is_link(value: object) -> bool:
    """Whether an input comes from another node, as ComfyUI tells it."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], (int, float))
    )


def as_queued(prompt: Prompt) -> dict[str, Any]:
    """A prompt as it was sent: without what ComfyUI wrote into it, and with its lists wrapped.

    ComfyUI unwraps ``{"__value__": [...]}`` in place, and would take the bare list for a link.
    """

    def sent(value: Any) -> Any:
        return {"__value__": value} if isinstance(value, list) and not is_link(value) else value

    queued: dict[str, Any] = {}
    for node_id, node in prompt.items():
        queued[node_id] = {key: value for key, value in node.items() if key != "is_changed"}
        queued[node_id]["inputs"] = {name: sent(value) for name, value in _inputs(node).items()}
    return queued


def told_by(prompt: Prompt) -> dict[str, str]:
    """Which gate a prompt that goes on tells each of its gate nodes: node -> gate id."""
    found: dict[str, str] = {}
    for node_id, node in prompt.items():
        decision = _inputs(node).get("decision")
        if node.get("class_type") == NODE_CLASS and isinstance(decision, str) and decision:
            found[node_id] = decision.removeprefix(NOT_YET)
    return found


def telling(prompt: Prompt, told: Mapping[str, str]) -> dict[str, Any]:
    """A prompt in which gate nodes are told a ``decision``: node -> gate id.

    Such a gate has asked: nothing that was linked into it is needed, nor checked, any more.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(prompt))
    for node_id, decision in told.items():
        inputs = changed[node_id]["inputs"]
        for name in [name for name, value in inputs.items() if is_link(value)]:
            del inputs[name]
        changed[node_id]["inputs"] = {"image": None, "routes": MAX_ROUTES, **inputs}
        changed[node_id]["inputs"] |= {"image": None, "decision": decision}
    return changed


def behind(prompt: Prompt, node_id: str, slots: Iterable[int]) -> set[str]:
    """All nodes that hang on these outputs of a node, directly or through others."""
    users: dict[str, list[tuple[int, str]]] = {}
    for user, node in prompt.items():
        for value in _inputs(node).values():
            if is_link(value):
                users.setdefault(value[0], []).append((value[1], user))
    found: set[str] = set()
    wanted = set(slots)
    todo = [user for slot, user in users.get(node_id, []) if slot in wanted]
    while todo:
        user = todo.pop()
        if user not in found:
            found.add(user)
            todo += [next_user for _, next_user in users.get(user, [])]
    return found


def _inputs(node: Mapping[str, Any]) -> Mapping[str, Any]:
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, Mapping) else {}
