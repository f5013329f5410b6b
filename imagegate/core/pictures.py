"""What everybody knows of pictures: an encoded image, and where the images of a gate come from.

Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Picture:
    """An encoded image. ``remarks``: what people should know when they look at it."""

    body: bytes
    media_type: str
    remarks: tuple[str, ...] = ()


class Pictures(Protocol):
    """The pictures of one gate; ``index`` counts the images of its batch from 0. Thread-safe."""

    def preview(self, index: int) -> Picture:
        """JPEG or WebP, longest side at most 1536 pixels."""

    def full(self, index: int) -> Picture:
        """Lossless PNG at the image's true size. Raises `GateClosed` once it is let go."""

    def start_mask(self, index: int) -> bytes | None:
        """The mask that painting starts from, as PNG; None for an empty one."""
