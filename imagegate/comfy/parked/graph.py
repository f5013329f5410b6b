"""What hangs behind the gates of a prompt, and which nodes there take or make whole lists.

ComfyUI calls a node once for each item of a list. A node that takes whole lists (INPUT_IS_LIST) is
called once for all of them, and blocked whole by a single item that is blocked; one that makes
lists (OUTPUT_IS_LIST) may change their length. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...core.model import MAX_ROUTES
from .prompts import GATE_CLASSES, Prompt, inputs_of, is_link

ROUTES = range(1, MAX_ROUTES + 1)
"""The slots of a gate that carry images; slot 0 is its mask."""


@dataclass(frozen=True)
class Lists:
    """Whether nodes of a class take whole lists, and whether they make lists."""

    takes: bool = False
    makes: bool = False


class Graph:
    """The links of a prompt, seen from its gates.

    Args:
        lists: what nodes of a class do with lists.
    """

    def __init__(self, prompt: Prompt, lists: Callable[[str], Lists] = lambda _: Lists()) -> None:
        self._prompt = prompt
        self._lists = lists
        self._users: dict[str, list[tuple[int, str]]] = {}
        for user, node in prompt.items():
            for value in inputs_of(node).values():
                if is_link(value):
                    self._users.setdefault(value[0], []).append((value[1], user))

    def behind(
        self,
        node: str,
        slots: Collection[int] | None = None,
        through: Callable[[str], bool] = lambda _: True,
    ) -> set[str]:
        """All nodes that hang on a node, directly or through others.

        Args:
            slots: only on these of its outputs.
            through: whether to look behind a node that was found.
        """
        found: set[str] = set()
        todo = [u for slot, u in self._users.get(node, []) if slots is None or slot in slots]
        while todo:
            user = todo.pop()
            if user not in found:
                found.add(user)
                if through(user):
                    todo += [next_user for _, next_user in self._users.get(user, [])]
        return found

    def together(self, gate: str) -> bool:
        """Whether the items of a gate must go on together: whole lists matter behind it."""
        return self.gathers(gate) or any(self._whole(node) for node in self.behind(gate))

    def stopped_by_a_hole(self, gate: str) -> list[str]:
        """The nodes on a gate's routes that do not run once one item of a list went elsewhere."""
        found = self.behind(gate, ROUTES, through=lambda node: not self.gathers(node))
        return sorted(node for node in found if self._lists(self._class(node)).takes)

    def needed_later(self, gate: str) -> bool:
        """Whether a prompt that goes on from another gate may need this gate's answer.

        That is so if both meet further on, or if this one leads past the other. Paths through a
        third gate do not count, for that gate has its own answer by then, unless it can only be
        asked when the prompt goes on.
        """
        later = {
            node
            for parking in self._parking
            if parking != gate and gate not in self.behind(parking)
            for node in self.behind(parking)
        }
        if not later:
            return False
        reached = self.behind(gate, through=lambda node: not self._is_gate(node) or node in later)
        return bool(reached & later)

    def gathers(self, node: str) -> bool:
        """Whether a node is a gate that makes shorter lists of its routes, as far as is known."""
        return self._is_gate(node) and self._may_be(node, "list", "gather")

    @cached_property
    def _parking(self) -> list[str]:
        return [n for n in self._prompt if self._is_gate(n) and self._may_be(n, "mode", "park")]

    def _may_be(self, node: str, name: str, wanted: str) -> bool:
        value = inputs_of(self._prompt[node]).get(name)
        return value == wanted or is_link(value)

    def _whole(self, node: str) -> bool:
        lists = self._lists(self._class(node))
        return lists.takes or lists.makes or self.gathers(node)

    def _is_gate(self, node: str) -> bool:
        return self._class(node) in GATE_CLASSES

    def _class(self, node: str) -> str:
        known: Any = self._prompt.get(node, {})
        return str(known.get("class_type"))
