"""Prompts in ComfyUI's API format, and what a gate changes about one to go on. Standard library."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from ...core.model import MAX_ROUTES

Prompt = Mapping[str, Mapping[str, Any]]

GATE_CLASSES = ("ImageGate",)
DECISIONS_CLASS = "ImageGateDecisions"
"""The node that gives each item of a list its own decision, see `imagegate.comfy.decisions`."""
NOT_YET = "wait:"
"""Stands before the id of a gate whose answer a prompt shall not use. (No id has a colon.)"""


def is_link(value: object) -> TypeGuard[list[Any]]:
    """Whether an input comes from another node, as ComfyUI tells it."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], (int, float))
    )


def inputs_of(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The inputs of a node; none where they are not what they must be."""
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, Mapping) else {}


def as_queued(prompt: Prompt) -> dict[str, Any]:
    """A prompt as it was sent: without what ComfyUI wrote into it, and with its lists wrapped.

    ComfyUI unwraps ``{"__value__": [...]}`` in place, and would take the bare list for a link.
    """

    def sent(value: Any) -> Any:
        return {"__value__": value} if isinstance(value, list) and not is_link(value) else value

    queued: dict[str, Any] = {}
    for node_id, node in prompt.items():
        queued[node_id] = {key: value for key, value in node.items() if key != "is_changed"}
        queued[node_id]["inputs"] = {name: sent(value) for name, value in inputs_of(node).items()}
    return queued


def decided_gates(prompt: Prompt) -> list[str]:
    """The ids of the gates whose decisions a prompt goes on with, or is to leave alone."""
    found: list[str] = []
    for node in prompt.values():
        decision = inputs_of(node).get("decision")
        if node.get("class_type") in GATE_CLASSES:
            if is_link(decision):
                source = inputs_of(prompt.get(decision[0], {})).get("decisions")
                found += read_decisions(source)
            elif isinstance(decision, str):
                found.append(decision)
    return [gate_id for one in found if (gate_id := one.removeprefix(NOT_YET))]


def read_decisions(text: object) -> list[str]:
    """The decisions of a list, from the input of a node of `DECISIONS_CLASS`."""
    try:
        found = json.loads(str(text))
    except ValueError:
        return []
    return [str(one) for one in found] if isinstance(found, list) else []


def with_decisions(prompt: Prompt, decisions: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A prompt in which gates are decided already.

    Args:
        decisions: of each such gate node, one for each item of its list: the id of the gate,
            `NOT_YET` before it where it is to stay blocked, empty where it is still to be asked.

    Nothing that was linked into a gate is needed, nor checked, any more, if all are decided.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(prompt))
    for node_id, given in decisions.items():
        inputs = changed[node_id]["inputs"]
        if all(given):
            for name in [name for name, value in inputs.items() if is_link(value)]:
                del inputs[name]
            inputs = {"routes": MAX_ROUTES, **inputs, "image": None}
            changed[node_id]["inputs"] = inputs
        if len(given) == 1:
            inputs["decision"] = given[0]
            continue
        source = f"decisions of {node_id.replace(':', '-')}"
        while source in changed:
            source += "'"
        changed[source] = {
            "class_type": DECISIONS_CLASS,
            "inputs": {"decisions": json.dumps(list(given))},
        }
        inputs["decision"] = [source, 0]
    return changed
