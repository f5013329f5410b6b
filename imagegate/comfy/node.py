"""The node: stops a prompt, waits for a person, sends the image down the chosen route.

Imports without ComfyUI.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar

import torch

from ..core.model import MAX_ROUTES
from ..operator.service import INSTALL, Service
from .asking import check, decided, earlier_answer, park, route, wait
from .inputs import ASK_AGAIN, INPUTS, KEEP_PLACES, PARK, REUSE, WAIT, refusal
from .lists import GateClass, Items, items_now, output_is_list
from .service import shared_service

LAZY = ("image", "mask")


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
        self._items = Items()

    def __getattr__(self, name: str) -> Any:
        return output_is_list(type(self).__name__, name)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs, as ComfyUI wants them declared."""
        return deepcopy(INPUTS)  # other packs change what they are given

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
        return refusal(routes, timeout, on_timeout, mode=mode, repeat=repeat, list=list) or True

    def check_lazy_status(self, decision: str = "", **inputs: Any) -> list[str]:
        """Which inputs have to be computed before `run`: none for a gate that was decided."""
        self._items = items_now()
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
                return await decided(storage, decision, unique_id, prompt)
            inputs = {
                "routes": routes, "labels": labels, "title": title, "timeout": timeout,
                "on_timeout": on_timeout, "mode": mode, "repeat": repeat, "list": list,
            }  # fmt: skip
            question = check(
                storage, self._items, image, mask, inputs, unique_id, prompt, extra_pnginfo
            )
            answer = earlier_answer(storage, question) if repeat == REUSE else None
            if answer is None:
                if mode == PARK:
                    return park(storage, question)
                answer = await wait(self._service, question)
            return route(question, answer)
        except ModuleNotFoundError as error:  # SQLAlchemy, say
            raise RuntimeError(INSTALL.format(error=error)) from error
