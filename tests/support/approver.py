"""A studio for tests: a store with parked gates, the operator's panel, and approvers with links."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import torch
from playwright.sync_api import Browser, BrowserContext, Page, expect

from imagegate.comfy.parked.run import files_of
from imagegate.core.model import Gate
from imagegate.gate_bus import GateBus
from imagegate.http.sockets.listener import Listener
from imagegate.share.app import create_approver
from tests.support.browser import WAIT, PanelServer
from tests.support.stored import storage_of, store_of, stored_bus, to_go_on

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 3,
    "has_touch": True,
    "is_mobile": True,
}


class Door:
    """The approver's door, on a loopback port that it keeps over a restart."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/imagegate/"

    def start(self) -> None:
        self._listener = Listener(self._app, "127.0.0.1", self._port)
        self._port = self._listener.port
        self._listener.start()

    def stop(self) -> None:
        self._listener.close()


class Studio:
    """Both doors over one store; whoever has a link has a browser of their own."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._links: dict[str, str] = {}  # name -> id
        self._operator: PanelServer | None = None
        self.bus: GateBus[Any] = stored_bus()
        self.links = store_of(self.bus).links
        self.door = Door(create_approver(self.bus, self.links))

    def __enter__(self) -> Studio:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for context in self._contexts:
            context.close()
        self.door.stop()
        if self._operator is not None:
            self._operator.stop()
        storage_of(self.bus).close()

    # -- the operator's side

    def publish(
        self,
        title: str,
        labels: tuple[str, ...] = ("keep", "fix"),
        *,
        size: tuple[int, int] = (96, 64),
        batch: int = 1,
        image: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        seconds: float | None = None,
    ) -> str:
        """A parked gate, over an image that is different for each title: its id.

        ``seconds``: until its deadline.
        """
        if image is None:
            generator = torch.Generator().manual_seed(sum(title.encode()))
            coarse = torch.rand(batch, 3, 4, 4, generator=generator)
            shape = (size[1], size[0])
            fine = torch.nn.functional.interpolate(coarse, size=shape, mode="bilinear")
            image = fine.permute(0, 2, 3, 1).contiguous()
        deadline = time.time() + seconds if seconds is not None else None
        gate = Gate(
            title=title, labels=labels, width=image.shape[2], height=image.shape[1],
            batch=image.shape[0], node_id="2", deadline=deadline,
        )  # fmt: skip
        return (
            storage_of(self.bus).parking.park(gate, files_of(image, mask), to_go_on(), "").gate.id
        )

    def operator_page(self, page: Page | None = None) -> Page:
        """The operator's panel at a desk."""
        self._operator = PanelServer(self.bus, records=storage_of(self.bus))
        page = page or self.tab()
        page.goto(self._operator.url)
        expect(page.locator("#ig-pending")).to_contain_text("waiting")
        return page

    @property
    def operator_url(self) -> str:
        """Where the operator's panel is, once it is open."""
        assert self._operator is not None
        return self._operator.url

    def invite(self, name: str, **given: Any) -> str:
        """The address of a new link for somebody."""
        link, token = self.links.create(name, **{"reach": "network", **given})
        self._links[name] = link.id
        return f"{self.door.url}s/{token}"

    def revoke(self, name: str) -> None:
        """End the link that somebody got last."""
        self.links.revoke(self._links[name])

    # -- the approvers' side

    def tab(self, **options: Any) -> Page:
        """An empty tab in a browser of its own."""
        given = {"viewport": {"width": 1280, "height": 860}} | options
        context = self._browser.new_context(**given)
        context.set_default_timeout(WAIT)
        self._contexts.append(context)
        return context.new_page()

    def enter(
        self, name: str, page: Page | None = None, *, may: str = "mask", **options: Any
    ) -> Page:
        """Somebody opens a link of their own, on a phone unless told otherwise."""
        page = page or self.tab(**({} if "viewport" in options else PHONE) | options)
        page.goto(self.invite(name, may=may))
        page.click("#ig-open")
        expect(page.locator("#ig-head")).to_be_visible()
        return page


def shown(page: Page, title: str) -> None:
    """The gate of this title is in front, and so is its image."""
    expect(page.locator("#ig-title")).to_have_text(title)
    expect(page.locator("#ig-image[data-size]")).to_be_visible()
