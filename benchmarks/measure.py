"""What all measurements share: times, rows of the table, an image that looks like a photo."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[1]


class NotRun(Exception):
    """What a measurement needs is not on this machine; the message says what."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ``beside`` is the plain way, measured in the same run. ``met`` is None where nothing could be
    measured; no figure ever fails a run.
    """

    what: str
    measured: str
    target: str
    met: bool | None
    beside: str = ""
    how: str = ""


class Times:
    """Samples in milliseconds."""

    def __init__(self, samples: list[float]) -> None:
        self._sorted = sorted(samples)

    @property
    def count(self) -> int:
        return len(self._sorted)

    @property
    def p50(self) -> float:
        return self._rank(0.5)

    @property
    def p99(self) -> float:
        """The 99th percentile; with fewer than 100 samples that is the slowest one."""
        return self._rank(0.99)

    def _rank(self, part: float) -> float:
        return self._sorted[max(0, math.ceil(part * self.count) - 1)]

    def __str__(self) -> str:
        return f"{figure(self.p50)} / {figure(self.p99)}"


def figure(number: float) -> str:
    """A number with three digits that count."""
    if number >= 100:
        return f"{number:.0f} ms"
    return f"{number:.{max(0, 2 - math.floor(math.log10(max(number, 0.001))))}f} ms"


def ratio(plain: Times, ours: Times) -> str:
    """How many times faster the median of ``ours`` is."""
    return f"{plain.p50 / ours.p50:,.0f} times" if plain.p50 else ""


def samples(count: int, once: Callable[[], float], warm_up: int = 2) -> Times:
    """``count`` results of ``once``, in seconds, after ``warm_up`` that are thrown away."""
    taken = [once() * 1000 for _ in range(warm_up + count)]
    return Times(taken[warm_up:])


def photo(side: int, seed: int = 1) -> torch.Tensor:
    """A square IMAGE with about the spectrum of a photo, and a little grain.

    It has shapes of all sizes, in light more than in colour. As a JPEG (quality 88) it needs about
    1 bit a pixel, as a PNG about 10. Noise would be the worst case of every encoder, a flat colour
    the best.
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 3, side, side)
    cells, strength = 3, 0.45
    while cells < side:
        light = torch.rand(1, 1, cells, cells, generator=generator) - 0.5
        colour = torch.rand(1, 3, cells, cells, generator=generator) - 0.5
        coarse = (light + 0.3 * colour) * strength
        image += F.interpolate(coarse, size=(side, side), mode="bilinear")
        cells, strength = cells * 2, strength * 0.7
    grain = torch.randn(1, 1, side, side, generator=generator) / 255
    return (image + 0.5 + grain).clamp(0, 1).permute(0, 2, 3, 1).contiguous()


def machine() -> str:
    """What the figures were taken on."""
    import platform

    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{load}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
