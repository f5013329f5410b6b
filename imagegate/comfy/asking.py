"""The steps of `ImageGate.run`: check the inputs, look for an earlier answer, park, or wait."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..core.failures import report_failure
from ..core.model import Answer, Gate, ImageGateError, StoreError, UnknownGate
from ..operator.service import Service
from ..pictures.tensors import TensorPictures, check_image, fit_mask
from ..storage.sql_storage import SqlStorage
from .host import EXTRA_USER, list_index, prompt_id, queued_with, shown_id
from .inputs import CHOICES, GATHER, PARK, check_choice
from .lists import Items
from .outputs import all_blocked, outputs_of
from .parked.prompts import NOT_YET
from .parked.run import Run, exact_files, files_of, fingerprint, kept, preview_file, run_of
from .port.users import owned
from .question import gate_of
from .waiting import pause, wait_for_answer, wait_for_files

log = logging.getLogger("imagegate")

STORE_LOOK = 1.0
"""Seconds before a store that was away is tried again."""


@dataclass(frozen=True)
class Question:
    """A checked call of the node.

    Attributes:
        gate: what people are asked.
        run: the run of the prompt that the gate belongs to.
        image: ``[B,H,W,C]``.
        start_mask: ``[B,H,W]``, from which painting starts; None for an empty one.
    """

    gate: Gate
    run: Run
    image: torch.Tensor
    start_mask: torch.Tensor | None


def check(
    storage: SqlStorage,
    items: Items,
    image: torch.Tensor | None,
    mask: torch.Tensor | None,
    inputs: Mapping[str, Any],
    unique_id: str | None,
    prompt: Mapping[str, Any] | None,
    extra_pnginfo: Mapping[str, Any] | None,
) -> Question:
    """The question that the node's inputs make.

    Args:
        items: the list that the node is called over.
        inputs: the values of the widgets, by their names.

    Raises:
        ValueError: an input is not what it must be.
    """
    for name, allowed in CHOICES.items():
        check_choice(name, inputs[name], allowed)
    image = check_image(image)
    start_mask = None if mask is None else fit_mask(mask, image)
    batch, height, width, _ = image.shape
    gate = gate_of(
        (batch, height, width), inputs["routes"], inputs["labels"], inputs["title"],
        inputs["timeout"], inputs["on_timeout"], (prompt_id(), shown_id(unique_id)), extra_pnginfo,
        gather=inputs["list"] == GATHER,
    )  # fmt: skip
    user = queued_with(gate.prompt_id, extra_pnginfo).extra.get(EXTRA_USER)
    gate = replace(gate, workflow_id=owned(gate.workflow_id, str(user or "")))
    parks = inputs["mode"] == PARK
    run = run_of(storage, gate, items, unique_id, prompt, extra_pnginfo, parks=parks)
    return Question(run.warned(gate), run, image, start_mask)


def earlier_answer(storage: SqlStorage, question: Question) -> Answer | None:
    """The answer to an equal question before, if there is one."""
    gate, run, image = question.gate, question.run, question.image
    needed = run.together or run.needed_later
    answer = storage.parking.reuse(
        gate,
        fingerprint(gate, image),
        files_of(image, question.start_mask) if needed else preview_file(image),
        run.parked(list_index()) if needed else None,
        due=run.together,
    )
    if answer is not None:
        log.info("gate %r was answered before: %r again", gate.title,
                 gate.said(answer.decision.route))  # fmt: skip
    return answer


def park(storage: SqlStorage, question: Question) -> tuple[Any, ...]:
    """End the prompt here; it goes on after the answer. Returns the outputs until then."""
    gate, image = question.gate, question.image
    files = files_of(image, question.start_mask)
    storage.parking.park(gate, files, question.run.parked(list_index()))
    _remember(storage, question)
    log.info("gate %r is parked; its prompt goes on after the answer", gate.title)
    return all_blocked()


async def wait(service: Service, question: Question) -> Answer:
    """Have the prompt wait for a person."""
    storage, gate = service.storage, question.gate
    pictures = TensorPictures(question.image, question.start_mask)
    ticket = service.bus.publish(gate, pictures)
    _remember(storage, question)
    log.info("gate %r waits for a person", gate.title)
    try:
        stored = None
        if question.run.needed_later:
            parked = question.run.parked(list_index())
            files = exact_files(question.image, question.start_mask)
            stored = storage.parking.keep_for_later(gate, files, parked)
        answer = await wait_for_answer(service, ticket)
    finally:
        # Reached too when the prompt ends in any other way; after an answer it does nothing.
        ticket.withdraw("its prompt ended")
        pictures.release()
    if stored is not None:
        try:
            await wait_for_files(stored)
        except (ImageGateError, OSError) as error:
            again = f"gate {gate.title!r} will be asked again where a parked one goes on"
            report_failure(again, error)
    log.info("gate %r goes to %r", gate.title, gate.said(answer.decision.route))
    return answer


def route(question: Question, answer: Answer) -> tuple[Any, ...]:
    """The outputs for an answer. A list that goes on together does so later, from the store."""
    if question.run.together:
        return all_blocked()
    return outputs_of(answer, question.gate, question.image, question.start_mask)


async def decided(
    storage: SqlStorage, gate_id: str, unique_id: str | None, prompt: Mapping[str, Any] | None
) -> tuple[Any, ...]:
    """The outputs of a gate that was asked before: those of its answer, or blocked without one.

    A store that is away for a moment is waited for, so that nobody is asked again because of it.
    """
    if unique_id is not None and prompt is not None and unique_id not in prompt:
        raise ValueError(
            "a gate that parked is in a loop, which would send the same image round again; set its "
            "mode to wait"
        )
    if gate_id.startswith(NOT_YET):
        return all_blocked()
    while True:
        try:
            snapshot, answer = storage.parking.answer_of(gate_id)
            if answer is not None:
                return outputs_of(answer, snapshot.gate, *kept(storage, snapshot.gate))
            log.info("gate %r is %s", snapshot.gate.title, snapshot.state.value)
            return all_blocked()
        except UnknownGate as error:
            raise ValueError(f"decision: {error}; it is set when a parked gate goes on") from error
        except StoreError as error:
            if not error.passing:
                raise
            report_failure("a parked gate cannot go on yet", error)
        await pause(STORE_LOOK)


def _remember(storage: SqlStorage, question: Question) -> None:
    """Keep the fingerprint of the question; in the background, because hashing takes a while."""
    gate, image = question.gate, question.image
    storage.later(lambda: storage.store.gates.set_fingerprint(gate.id, fingerprint(gate, image)))
