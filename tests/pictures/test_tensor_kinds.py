"""Whatever kind of tensor comes to a gate, parking it gives what waiting gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from imagegate.pictures.tensors import _NAMES
from tests.comfy.test_gate import graph, photo, png
from tests.comfy.test_park import ParkBench
from tests.comfy.test_park import bench as bench
from tests.comfy.test_park import comfy as comfy
from tests.support.comfy_stand_in import Result

pytestmark = pytest.mark.slow

DTYPES = [name for name in _NAMES if hasattr(torch, name)]


def numbers(dtype: str, channels: int = 3, batch: int = 2) -> torch.Tensor:
    """All kinds of values that this dtype has."""
    kind = getattr(torch, dtype)
    image = photo(batch, channels=channels)
    if kind is torch.bool:
        return image > 0.5
    return image.to(kind) if kind.is_floating_point else (image * 100).to(kind)


def extremes() -> torch.Tensor:
    image = photo(2)
    image.view(-1)[:6] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 7])
    return image


IMAGES: dict[str, Callable[[], torch.Tensor]] = {
    **{dtype: partial(numbers, dtype) for dtype in DTYPES},
    **{f"{dtype} grey": partial(numbers, dtype, 1) for dtype in DTYPES},
    **{f"{dtype} with alpha": partial(numbers, dtype, 4) for dtype in DTYPES},
    "8 bit as float": lambda: (photo(2) * 255).to(torch.uint8).float() / 255,
    "NaN, infinite, -0.0, denormal": extremes,
    "1 x 1": lambda: photo(1)[:, :1, :1],
    "part of a larger one": lambda: photo(2)[:, 1:4, ::2],
    "expanded": lambda: photo(1).expand(3, -1, -1, -1),
    "upside down": lambda: photo(2).flip(1),
    "transposed": lambda: photo(2).transpose(1, 2),
    "channels last": lambda: photo(2).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    "with a gradient": lambda: photo(2).requires_grad_(),
    "half way in a graph": lambda: photo(2).requires_grad_() * 2,
    "a parameter": lambda: torch.nn.Parameter(photo(2)),
    "many": lambda: photo(40),
}
SOFT = torch.linspace(0, 1, 2 * 6 * 8).reshape(2, 6, 8)
MASKS: dict[str, Callable[[], Any]] = {
    **{dtype: partial(SOFT.to, getattr(torch, dtype)) for dtype in DTYPES},
    "one for all": lambda: SOFT[0],
    "with a channel": lambda: SOFT[:, None],
    "larger": lambda: torch.rand(2, 60, 80, generator=torch.Generator().manual_seed(1)),
    "too many": lambda: torch.ones(5, 6, 8),
    "with a gradient": lambda: SOFT.clone().requires_grad_(),
    "transposed": lambda: SOFT.transpose(1, 2).contiguous().transpose(1, 2),
    "NaN, out of range, -0.0": lambda: torch.where(SOFT > 0.5, torch.nan, -SOFT * 9),
}
NO_IMAGES: dict[str, Callable[[], Any]] = {
    "complex": lambda: photo().to(torch.complex64),
    "sparse": lambda: photo().to_sparse(),
    "without values": lambda: photo().to("meta"),
    "flat": lambda: photo()[0],
    "two channels": lambda: photo()[..., :2],
    "empty": lambda: photo()[:0],
    "a list": lambda: [[0.5]],
}
NO_MASKS: dict[str, Callable[[], Any]] = {
    "complex": lambda: SOFT.to(torch.complex64),
    "sparse": lambda: SOFT.to_sparse(),
    "without values": lambda: SOFT.to("meta"),
    "two channels": lambda: torch.ones(2, 2, 6, 8),
    "empty": lambda: SOFT[:0],
    "a list": lambda: [[0.5]],
    "a number": lambda: 0.5,
}


def prompt(mode: str, masked: bool) -> dict[str, Any]:
    found = graph({"mode": mode, **({"mask": ["soft", 0]} if masked else {})})
    found["soft"] = {"class_type": "Load", "inputs": {"name": "soft"}}
    found["mask"] = {"class_type": "Take", "inputs": {"mask": ["gate", 0]}}
    return found


def routed(bench: ParkBench, mode: str, paint: bool = False) -> Result:
    """A prompt's result after a person has chosen the route, and painted the first image."""
    run = bench.start(prompt(mode, "soft" in bench.tensors), "out", "mask")
    gate = bench.one()
    if paint:
        bench.bus.set_mask(gate.id, 0, png(gate.width, gate.height, (0, 0)))
    pictures = bench.bus.pictures(gate.id)
    assert pictures is not None
    for index in range(min(gate.batch, 2)):
        assert pictures.preview(index).body
        assert pictures.full(index).body
    bench.bus.decide(gate.id, 1)
    return (bench.resumed(gate) if mode == "park" else run).result()


def bits(tensor: torch.Tensor) -> Any:
    whole = tensor.detach().contiguous()
    return whole.dtype, list(whole.shape), bytes(whole.reshape(-1).view(torch.uint8).numpy())


def same_in_both(bench: ParkBench, *, paint: bool = False) -> None:
    before = bits(bench.tensors["photo"])
    waited = routed(bench, "wait", paint)
    bench.executor._cache.clear()
    parked = routed(bench, "park", paint)
    assert bits(waited.value("out")) == bits(parked.value("out")) == before
    mask = parked.value("mask")
    assert bits(waited.value("mask")) == bits(mask)
    assert (mask.dtype, mask.shape) == (torch.float32, bench.tensors["photo"].shape[:3])
    assert not waited.value("mask").requires_grad
    assert not mask.isnan().any()


@pytest.mark.parametrize("kind", IMAGES)
def test_all_kinds_of_images(bench: ParkBench, kind: str) -> None:
    """The route has the bits, dtype and shape that came, in both modes; and it can be looked at."""
    bench.tensors["photo"] = IMAGES[kind]()
    same_in_both(bench, paint=True)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("paint", [False, True])
def test_all_kinds_of_masks(bench: ParkBench, kind: str, paint: bool) -> None:
    """So has the mask, whatever was connected, painted over or not."""
    bench.tensors |= {"photo": photo(2), "soft": MASKS[kind]()}
    same_in_both(bench, paint=paint)


@pytest.mark.parametrize("mode", ["wait", "park"])
@pytest.mark.parametrize("kind", [*NO_IMAGES, *(f"mask: {kind}" for kind in NO_MASKS)])
def test_what_is_refused_is_refused_in_both(bench: ParkBench, kind: str, mode: str) -> None:
    """What cannot be shown or kept fails before anybody is asked, and what came is said."""
    bench.tensors["photo"] = photo(2)
    name, _, which = kind.rpartition(": ")
    if name:
        bench.tensors["soft"] = NO_MASKS[which]()
    else:
        bench.tensors["photo"] = NO_IMAGES[which]()
    result = bench.start(prompt(mode, bool(name)), "out", "mask").result()
    assert (result.status, result.node_id) == ("error", "gate")
    assert isinstance(result.error, ValueError)
    assert str(result.error).startswith(name or "image")
    assert bench.bus.count() == 0
