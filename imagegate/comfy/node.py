"""The node: stops a prompt, waits for a person, sends the image down the chosen route.

Imports without ComfyUI.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch

from ..core.failures import report_failure
from ..core.model import (
    MAX_ROUTES,
    Answer,
    Gate,
    ImageGateError,
    StoreError,
    UnknownGate,
    parse_labels,
)
from ..core.prompts import NOT_YET
from ..operator.service import INSTALL, Service
from ..pictures.tensors import TensorPictures, check_image, empty_mask, fit_mask, mask_from_png
from ..storage.sql_storage import SqlStorage
from .executor import (
    GateClass,
    Gathered,
    blocker,
    list_index,
    mapping,
    output_is_list,
    prompt_id,
    shown_id,
)
from .executor import Mapping as ListOf
from .host import running, shared_service
from .parking import Run, exact_files, files_of, fingerprint, kept, preview_file, run_of
from .question import (
    ASK_AGAIN,
    GATHER,
    KEEP_PLACES,
    LISTS,
    MAX_TIMEOUT,
    MODES,
    ON_TIMEOUT,
    PARK,
    REPEAT,
    REUSE,
    WAIT,
    check_choice,
    check_timeout,
    question,
)
from .users import EXTRA_USER, owned
from .waiting import pause, wait_for_answer, wait_for_files

log = logging.getLogger("imagegate")

STORE_LOOK = 1.0
"""Seconds between looks whether a store that was away is back."""

LAZY = ("image", "mask")


def route_tuple(
    chosen: int, image: Any, blocker: Any, max_routes: int = MAX_ROUTES
) -> tuple[Any, ...]:
    """The image on the chosen route, the blocker on every other one.

    Args:
        chosen: the route, counted from 0.

    Raises:
        ValueError: there is no such route.
    """
    if not 0 <= chosen < max_routes:
        raise ValueError(f"route {chosen} is out of range; allowed are 0 to {max_routes - 1}")
    return tuple(image if i == chosen else blocker for i in range(max_routes))


def mask_from_stash(data: bytes | None, image: torch.Tensor) -> torch.Tensor:
    """A saved mask for an image and its whole batch.

    Args:
        data: PNG bytes, white painted; None or empty for not painted.
        image: ``[B,H,W,C]``.

    Returns:
        float32 ``[B,H,W]``, 0..1, 1 = painted; zeros where nothing was painted.

    Raises:
        BadPicture: broken, too large, or of another aspect ratio than the image.
    """
    if not data:
        return empty_mask(image)
    batch, height, width, _ = image.shape
    return mask_from_png(data, width, height).expand(batch, -1, -1).clone()


class ImageGate(metaclass=GateClass):
    """ComfyUI node class "Image Gate (Manual Router)"; a V1 node with an async function."""

    CATEGORY = "Datasete Gates"
    DESCRIPTION = (
        "Pauses the prompt and shows the image in a panel. A person may paint a mask and chooses "
        "one of up to ten routes, or stops. Only what hangs on the chosen route runs."
    )
    FUNCTION = "run"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("MASK", *["IMAGE"] * MAX_ROUTES)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = (
        "mask",
        *(f"route_{i}" for i in range(1, MAX_ROUTES + 1)),
    )
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = (
        "What was painted, 1 = painted; zeros, or the mask input, if nothing was.",
        *(f"The image, if route {i} was chosen." for i in range(1, MAX_ROUTES + 1)),
    )

    def __init__(self, service: Service | None = None) -> None:
        self._service = service or shared_service()
        self._list = ListOf()

    def __getattr__(self, name: str) -> Any:
        return output_is_list(type(self).__name__, name)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The contract of the node. New inputs go after the old ones."""
        return {
            "required": {
                "image": ("IMAGE", {"lazy": True, "tooltip": "What the person looks at."}),
                "routes": (
                    "INT",
                    {"default": 2, "min": 1, "max": MAX_ROUTES, "tooltip": "How many routes."},
                ),
            },
            "optional": {
                "labels": (
                    "STRING",
                    {
                        "default": "",
                        "placeholder": "keep, fix, reject",
                        "tooltip": "One a route, separated by commas. A missing one is its number.",
                    },
                ),
                "title": (
                    "STRING",
                    {"default": "", "tooltip": "Shown above the image. Default: the node's title."},
                ),
                "mask": ("MASK", {"lazy": True, "tooltip": "Painting starts from it."}),
                "timeout": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": MAX_TIMEOUT,
                        "tooltip": "Seconds to wait for a person; 0 waits for ever.",
                    },
                ),
                "on_timeout": (ON_TIMEOUT, {"tooltip": "What happens when the time is up."}),
                "mode": (
                    MODES,
                    {
                        "tooltip": "wait: the prompt stays in the queue until somebody answers. "
                        "park: it ends, the queue goes on, and what hangs on the chosen route runs "
                        "after the answer, also after a restart.",
                    },
                ),
                "repeat": (
                    REPEAT,
                    {
                        "tooltip": "reuse decision: an image that was decided before, with the "
                        "same title and labels, takes the same route without a pause.",
                    },
                ),
                "list": (
                    LISTS,
                    {
                        "tooltip": "For a list of images. keep places: each route is a list as "
                        "long as the input, with nothing where an image went another way, so that "
                        "a second list stays in step. gather: each route is the list of its own "
                        "images, for a node that takes a whole list.",
                    },
                ),
            },
            "hidden": {
                # The id of a gate that was decided: a prompt that goes on from a parked gate.
                "decision": ("STRING", {"default": ""}),
                "unique_id": "UNIQUE_ID",
                "prompt": "PROMPT",
                "extra_pnginfo": "EXTRA_PNGINFO",
            },
        }

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        """Never equal, not even to itself: the gate asks every time."""
        return float("nan")

    @classmethod
    def VALIDATE_INPUTS(
        cls,
        routes: int | None = None,
        timeout: int | None = None,
        on_timeout: str | None = None,
        mode: str | None = None,
        repeat: str | None = None,
        list: str | None = None,  # noqa: A002 - the input's name
    ) -> bool | str:
        """Refuse a prompt before it runs rather than after an hour. None: not known yet."""
        try:
            parse_labels("", MAX_ROUTES if routes is None else routes)
            check_timeout(timeout or 0, on_timeout or "stop", routes or MAX_ROUTES)
            check_choice("mode", mode or WAIT, MODES)
            check_choice("repeat", repeat or ASK_AGAIN, REPEAT)
            check_choice("list", list or KEEP_PLACES, LISTS)
        except ValueError as error:
            return str(error)
        return True

    def check_lazy_status(self, decision: str = "", **inputs: Any) -> list[str]:
        """Which inputs have to be computed before `run`: none for a gate that was decided."""
        self._list = mapping()
        if decision:
            return []
        lazy = {"image": None} | {name: value for name, value in inputs.items() if name in LAZY}
        return [name for name, value in lazy.items() if value is None]

    async def run(
        self,
        image: torch.Tensor | None = None,
        routes: int = 2,
        labels: str = "",
        title: str = "",
        mask: torch.Tensor | None = None,
        timeout: float = 0,
        on_timeout: str = "stop",
        mode: str = WAIT,
        repeat: str = ASK_AGAIN,
        list: str = KEEP_PLACES,  # noqa: A002 - the input's name
        decision: str = "",
        unique_id: str | None = None,
        prompt: Mapping[str, Any] | None = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> tuple[Any, ...]:
        """Ask, wait or park, route.

        Args:
            image: ``[B,H,W,C]``, C of 1, 3 or 4; a batch goes down one route whole. None where
                there is a ``decision``.
            timeout: seconds; 0 waits for ever.
            on_timeout: ``stop`` or ``route N``.
            mode: ``wait`` or ``park``.
            repeat: ``ask again`` or ``reuse decision``.
            list: ``keep places`` or ``gather``.
            decision: the id of a gate that was decided; its image and its answer are used.

        Returns:
            ``(mask, route_1 .. route_10)``: the mask is float32 ``[B,H,W]``; the chosen route is
            the image, every other one blocked. All are blocked where the gate was parked. A gate
            that gathers returns `Gathered` instead, with each route a list of one or none.

        Raises:
            ValueError: an input is not what it must be.
            RuntimeError: the panel cannot be shown; the message says what to install.
            StoreError: the gate cannot be remembered; the message says why.
        """
        try:
            storage = self._service.storage
            if decision:
                return await _decided(storage, decision, unique_id, prompt)
            image = check_image(image)
            start_mask = None if mask is None else fit_mask(mask, image)
            batch, height, width, _ = image.shape
            gate = question(
                (batch, height, width), routes, labels, title, timeout, on_timeout,
                (prompt_id(), shown_id(unique_id)), extra_pnginfo,
                gather=check_choice("list", list, LISTS) == GATHER,
            )  # fmt: skip
            user = running(gate.prompt_id, extra_pnginfo).extra.get(EXTRA_USER)
            gate = replace(gate, workflow_id=owned(gate.workflow_id, str(user or "")))
            parks = check_choice("mode", mode, MODES) == PARK
            run = run_of(storage, gate, self._list, unique_id, prompt, extra_pnginfo, parks=parks)
            gate = run.warned(gate)
            if check_choice("repeat", repeat, REPEAT) == REUSE:
                answer = self._reuse(run, gate, image, start_mask)
                if answer is not None:
                    return _all_blocked() if run.together else _routed(answer, gate, image,
                                                                       start_mask)  # fmt: skip
            if parks:
                return self._park(run, gate, image, start_mask)
            return await self._ask(run, gate, image, start_mask)
        except ModuleNotFoundError as error:  # SQLAlchemy, say
            raise RuntimeError(INSTALL.format(error=error)) from error

    def _reuse(
        self, run: Run, gate: Gate, image: torch.Tensor, start_mask: torch.Tensor | None
    ) -> Answer | None:
        """The answer to an equal question before, if there is one."""
        needed = run.together or run.needed_later
        answer = self._service.storage.parking.reuse(
            gate,
            fingerprint(gate, image),
            files_of(image, start_mask) if needed else preview_file(image),
            run.parked(list_index()) if needed else None,
            due=run.together,
        )
        if answer is not None:
            log.info("gate %r was answered before: %r again", gate.title,
                     gate.said(answer.decision.route))  # fmt: skip
        return answer

    async def _ask(
        self, run: Run, gate: Gate, image: torch.Tensor, start_mask: torch.Tensor | None
    ) -> tuple[Any, ...]:
        """The prompt waits for a person."""
        storage = self._service.storage
        pictures = TensorPictures(image, start_mask)
        ticket = self._service.bus.publish(gate, pictures)
        storage.later(
            lambda: storage.store.gates.set_fingerprint(gate.id, fingerprint(gate, image))
        )
        log.info("gate %r waits for a person", gate.title)
        try:
            stored = None
            if run.needed_later:
                parked = run.parked(list_index())
                stored = storage.parking.keep_for_later(
                    gate, exact_files(image, start_mask), parked
                )
            answer = await wait_for_answer(self._service, ticket)
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
        return _routed(answer, gate, image, start_mask)

    def _park(
        self, run: Run, gate: Gate, image: torch.Tensor, start_mask: torch.Tensor | None
    ) -> tuple[Any, ...]:
        """The prompt ends here, and goes on after the answer."""
        storage = self._service.storage
        storage.parking.park(gate, files_of(image, start_mask), run.parked(list_index()))
        storage.later(
            lambda: storage.store.gates.set_fingerprint(gate.id, fingerprint(gate, image))
        )
        log.info("gate %r is parked; its prompt goes on after the answer", gate.title)
        return _all_blocked()


async def _decided(
    storage: SqlStorage, gate_id: str, unique_id: str | None, prompt: Mapping[str, Any] | None
) -> tuple[Any, ...]:
    """The outputs of a gate that was asked before: by its answer, or blocked while it has none.

    A store that is away for a moment is waited for: nobody is to be asked again for that.
    """
    if unique_id is not None and prompt is not None and unique_id not in prompt:
        raise ValueError(
            "a gate that parked is in a loop, which would send the same image round again; set its "
            "mode to wait"
        )
    if gate_id.startswith(NOT_YET):
        return _all_blocked()
    while True:
        try:
            snapshot, answer = storage.parking.answer_of(gate_id)
            if answer is not None:
                return _routed(answer, snapshot.gate, *kept(storage, snapshot.gate))
            log.info("gate %r is %s", snapshot.gate.title, snapshot.state.value)
            return _all_blocked()
        except UnknownGate as error:
            raise ValueError(f"decision: {error}; it is set when a parked gate goes on") from error
        except StoreError as error:
            if not error.passing:
                raise
            report_failure("a parked gate cannot go on yet", error)
        await pause(STORE_LOOK)


def _routed(
    answer: Answer, gate: Gate, image: torch.Tensor, start_mask: torch.Tensor | None
) -> tuple[Any, ...]:
    chosen = answer.decision.route
    assert chosen is not None  # a stop raises
    mask = _masks(answer, image, start_mask)
    if gate.gather:
        return Gathered((mask, *([image] if i == chosen else [] for i in range(1, MAX_ROUTES + 1))))
    return (mask, *route_tuple(chosen - 1, image, blocker()))


def _masks(answer: Answer, image: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
    """The mask ``[B,H,W]``: what was painted, else the mask input, else zeros."""
    mask = empty_mask(image) if start is None else start.cpu().clone()
    for index, png in answer.masks.items():
        mask[index] = mask_from_stash(png, image[index : index + 1])[0]
    return mask


def _all_blocked() -> tuple[Any, ...]:
    return (blocker(),) * (1 + MAX_ROUTES)
