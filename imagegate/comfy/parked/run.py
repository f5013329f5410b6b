"""What a gate stores for prompts that go on later: its position in the graph, and its image."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from ...core.model import Gate, GateClosed
from ...pictures.tensors import (
    TensorPictures,
    decode_exact,
    decode_mask,
    digest,
    encode_exact,
    encode_mask,
    full,
    needs_torch,
)
from ...storage.sql_storage import SqlStorage
from ..host import list_index, lists_of, queued_with, shown_name
from ..lists import Items
from ..question import node_title
from ..waiting import when_prompt_ends
from .graph import Graph, Lists
from .prompts import Prompt, as_queued, decided_gates

if TYPE_CHECKING:  # it brings SQLAlchemy
    from ...storage.queries.runs import Parked

log = logging.getLogger("imagegate")


@dataclass(frozen=True)
class Run:
    """The run of a prompt as one of its gates sees it; see `imagegate.storage.queries.runs.Parked`.

    Attributes:
        node: the gate's key in the prompt; a gate that another node made is not in it.
        prompt: the prompt as it was queued.
        list_of: the list that the gate is called for.
        parks: whether the gate parks.
    """

    storage: SqlStorage
    gate: Gate
    node: str
    prompt: Prompt
    list_of: Items
    extra_pnginfo: Any
    root: str = ""
    parks: bool = False

    @cached_property
    def _graph(self) -> Graph:
        return Graph(self.prompt, lambda name: Lists(*lists_of(name)))

    @cached_property
    def together(self) -> bool:
        """Whether the gate parks, and goes on only together with all others of its list."""
        return self.parks and len(self.list_of.live) > 1 and self._graph.together(self.node)

    @cached_property
    def needed_later(self) -> bool:
        """Whether prompts that go on from other gates need the answer to this one."""
        return self.node in self.prompt and self._graph.needed_later(self.node)

    def warned(self, gate: Gate) -> Gate:
        """The gate, with what a person should know about its list before the answer."""
        together = len(self.list_of.live) if self.together else 0
        warning = ""
        if self.list_of.count > 1 and not gate.gather and self.node in self.prompt:
            warning = _warning([self._name(n) for n in self._graph.stopped_by_a_hole(self.node)])
        if warning and list_index() == min(self.list_of.live, default=0):
            log.warning("gate %r: %s", gate.title, warning)
        return replace(gate, together=together, warning=warning)

    def parked(self, item: int) -> Parked:
        """What is stored of one item of the list."""
        from ...storage.queries.runs import Parked

        gate = self.gate
        if self.node not in self.prompt:
            raise ValueError(
                f"gate {gate.title!r} cannot park: it is made by another node (a loop, say), so no "
                "prompt could go on from it; set mode to wait"
            )
        stored = Parked(
            root=self.root, node=self.node, prompt={}, extra={}, item=item,
            length=max(self.list_of.count, item + 1), live=self.list_of.live,
        )  # fmt: skip
        if not self.parks:
            return stored
        asks = _while_it_runs(self.storage, gate)
        queued = queued_with(gate.prompt_id, self.extra_pnginfo)
        return replace(
            stored, prompt=self.prompt, extra=queued.extra, client=queued.client,
            targets=queued.targets, together=self.together, running=asks,
        )  # fmt: skip

    def _name(self, node: str) -> str:
        known = node_title(node, self.extra_pnginfo)
        return f"{known or shown_name(str(self.prompt[node].get('class_type')))!r} ({node})"


def run_of(
    storage: SqlStorage,
    gate: Gate,
    list_of: Items,
    unique_id: str | None,
    prompt: Prompt | None,
    extra_pnginfo: Any,
    *,
    parks: bool,
) -> Run:
    """The run of the gate: that of the gates from which its prompt goes on, or a new one."""
    prompt = prompt or {}
    node = str(unique_id or "")
    if node not in prompt:
        prompt = {}
    run = Run(storage, gate, node, prompt, list_of, extra_pnginfo, parks=parks)
    before = decided_gates(prompt)
    for gate_id in before:
        stored = storage.store.parked.get(gate_id)
        if stored is not None and stored.prompt:
            return replace(run, root=stored.root, prompt=stored.prompt)
    number = queued_with(gate.prompt_id, None).number
    root = f"{gate.prompt_id or gate.id} {number}".strip()
    return replace(run, root=root, prompt=as_queued(prompt))


def _while_it_runs(storage: SqlStorage, gate: Gate) -> str:
    """The id of this process until the gate's prompt ends, because nothing goes on before."""
    if not gate.prompt_id:
        return ""
    if storage.claims.prompt_runs(gate.prompt_id) and not when_prompt_ends(
        lambda: storage.claims.prompt_ended(gate.prompt_id)
    ):
        storage.claims.prompt_ended(gate.prompt_id)
        return ""
    return storage.id


def _warning(names: list[str]) -> str:
    if not names:
        return ""
    one = len(names) == 1
    return (
        f"{' and '.join(names)} {'takes' if one else 'take'} the whole list: if an image goes "
        f"another way, {'it does' if one else 'they do'} not run. With list = gather "
        f"{'it gets' if one else 'they get'} the images that were sent there."
    )


def preview_file(image: torch.Tensor) -> Iterator[tuple[str, bytes]]:
    yield "preview-0", TensorPictures(image).preview(0).body


def files_of(image: torch.Tensor, start_mask: torch.Tensor | None) -> Iterator[tuple[str, bytes]]:
    """All that is kept for a parked gate, one file after another: batches can be large."""
    yield from preview_file(image)
    yield from exact_files(image, start_mask)


def exact_files(
    image: torch.Tensor, start_mask: torch.Tensor | None
) -> Iterator[tuple[str, bytes]]:
    """The files from which an image and its start mask are restored, bit for bit."""
    for index, one in enumerate(image):
        suffix, body = encode_exact(one)
        yield f"exact-{index}.{suffix}", body
        if needs_torch(one):  # for panels on their own
            yield f"full-{index}.png", full(image, index).body
    if start_mask is not None:
        yield "start.safetensors", encode_mask(start_mask)


def kept(storage: SqlStorage, gate: Gate) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The image of a parked gate, bit for bit, and the mask that painting started from."""
    files = storage.store.picture_files
    images = []
    for index in range(gate.batch):
        for suffix in ("png", "safetensors"):
            body = files.read(gate.id, f"exact-{index}.{suffix}")
            if body is not None:
                images.append(decode_exact(suffix, body))
                break
        else:
            raise GateClosed(f"the image of gate {gate.title!r} is no longer kept")
    mask = files.read(gate.id, "start.safetensors")
    return torch.stack(images), None if mask is None else decode_mask(mask)


def fingerprint(gate: Gate, image: torch.Tensor) -> str:
    """Identifies equal questions: a hash of the image's values, the title and the labels."""
    words = json.dumps([digest(image), gate.title, gate.labels])
    return hashlib.sha256(words.encode()).hexdigest()
