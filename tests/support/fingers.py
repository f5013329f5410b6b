"""Touching a page as fingers do, through Chromium's own protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from playwright.sync_api import Page

Point = tuple[float, float]


class Fingers:
    """One or two fingers on the screen of a page that has touch; points in CSS pixels."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._protocol = page.context.new_cdp_session(page)

    def tap(self, at: Point) -> None:
        self._send("touchStart", at)
        self._send("touchEnd")

    def draw(self, points: Iterable[Point]) -> None:
        """One finger goes down at the first point and up at the last, where it rests.

        A tap that comes while something may still glide only stops that, says Chromium.
        """
        kind = "touchStart"
        for point in points:
            self._send(kind, point)
            kind = "touchMove"
        self._page.evaluate("() => new Promise((done) => setTimeout(done, 100))")
        self._send("touchEnd")

    def pinch(self, centre: Point, wide: tuple[float, float], shift: Point = (0, 0)) -> None:
        """Two fingers, side by side, go from one distance to another while they move together.

        Args:
            wide: how far apart they are when they go down, and when they go up.
            shift: how far they go together.
        """
        steps = 8
        kind = "touchStart"
        for step in range(steps + 1):
            part = step / steps
            half = (wide[0] + (wide[1] - wide[0]) * part) / 2
            x, y = centre[0] + shift[0] * part, centre[1] + shift[1] * part
            if step == 0:
                self._send(kind, (x - half, y))
            self._send(kind if step else "touchStart", (x - half, y), (x + half, y))
            kind = "touchMove"
        self._send("touchEnd")

    def _send(self, kind: str, *points: Point) -> None:
        fingers: list[Any] = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        self._protocol.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
