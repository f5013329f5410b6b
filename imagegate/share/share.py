"""Sharing: the links made here, and the ports behind them, open while one of them is live.

The approver's app is served on ports of its own, so that no header or path of the operator's port
leads there. A tunnel leads to one that only this machine can reach, and an address in the network
to another. They open with the first link that needs them and close with the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.bus import Bus
from ..core.failures import report_failure
from ..core.links import Link, Reach
from ..core.loop import Loop
from ..core.news import Bell, Subscription
from ..http.paths import PREFIX
from ..http.sockets.listener import Listener
from ..http.sockets.listening import address_in_network
from .tunnel import Standing, TunnelKeeper

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from ..storage.links import LinkStore

SHARE_PORT = 7866
"""The port in the network for share links; if it is taken, the next free one."""
SHARE_PORTS = 20
"""How many ports are tried."""
RETRY = 5.0
"""Seconds until the links are read again after a failure."""
LONGEST_WAIT = 24 * 3600.0
"""The most seconds of one wait."""


class Share:
    """The links made in this process, and the ports that they need. Thread-safe.

    Nothing is started before `start`, and no port is opened before there is a link.

    Args:
        bus: the bus whose gates are shown.
        links: returns the links, and may open their store for that. Raises `StoreError`.
        worker: the id of this process, whose links are served here.
        others: returns the names of the other live processes, by their ids.
        progress: how far a folder's session is.
        port: the port to listen on in the network.
        tunnel: keeps a tunnel to a port; replaced in tests.
        names: names of this machine in people's networks; see `imagegate.core.origins`.
    """

    def __init__(
        self,
        bus: Bus,
        links: Callable[[], LinkStore],
        *,
        worker: str = "",
        others: Callable[[], Mapping[str, str]] = dict,
        progress: Callable[[], dict[str, Any]] | None = None,
        port: int = SHARE_PORT,
        tunnel: Callable[[int, Callable[[], None]], TunnelKeeper] = TunnelKeeper,
        names: Sequence[str] = (),
    ) -> None:
        self.changed = Bell()
        """Rings when a link, or the address for links, has changed."""
        self._bus = bus
        self._links = links
        self._worker = worker
        self._others = others
        self._progress = progress
        self._port = port
        self._tunnel = tunnel
        self._names = names
        self._loop = Loop("imagegate-share", self._run)
        # Only the thread changes these.
        self._app: ASGIApp | None = None
        self._inner: Listener | None = None
        self._outer: Listener | None = None
        self._keeper: TunnelKeeper | None = None
        self._trouble = ""  # why links cannot be reached

    # -- links

    def create(self, name: str, **given: Any) -> tuple[Link, str]:
        """Make a link, as `LinkStore.create`; returns it with its token. Its port opens soon."""
        self.start()
        return self._links().create(name, worker=self._worker, **given)

    def reissue(self, link_id: str) -> tuple[Link, str]:
        """A new address for a link; see `LinkStore.reissue`."""
        self.start()
        return self._links().reissue(link_id, self._worker, self._others())

    def revoke(self, link_id: str) -> Link:
        """End a link at once; see `LinkStore.revoke`."""
        return self._links().revoke(link_id)

    def describe(self, *links: Link) -> list[dict[str, Any]]:
        """Links as the operator's REST gives them.

        ``moved``: its address leads nowhere, because the port has another address now or its
        process has ended. ``worker``: the process behind it, if that is another live one.
        """
        door, others = self.door(), self._others()
        answered = self._bus.answered([link.id for link in links])

        def one(link: Link) -> dict[str, Any]:
            now = door[link.reach.value]["url"]
            lost = link.worker != self._worker and link.worker not in others
            return link.to_json() | {
                "decisions": answered.get(link.id, 0),
                "moved": link.live and (lost or bool(now and link.door not in ("", now))),
                "worker": others.get(link.worker, ""),
            }

        return [one(link) for link in links]

    def to_json(self) -> dict[str, Any]:
        """All links, and where they lead, as the operator's REST gives it."""
        links = self._links()
        return {"links": self.describe(*links.all()), "door": self.door(), "now": links.now()}

    def waits_for(self, link: Link) -> bool:
        """Whether somebody may still enter by its address."""
        now = self._links().get(link.id)
        return now.live and not (now.once and now.opened)

    def door(self) -> dict[str, dict[str, Any]]:
        """For each `Reach`, the address under which links are, or why there is none."""
        keeper, outer = self._keeper, self._outer
        tunnel = keeper.standing if keeper is not None else Standing(problem=self._trouble)
        here, problem = "", self._trouble
        if outer is not None:
            address = address_in_network()
            here = f"http://{address}:{outer.port}{PREFIX}" if address else ""
            problem = "" if address else "this machine is in no network"
        return {
            Reach.INTERNET.value: {
                "url": tunnel.url.rstrip("/") + PREFIX if tunnel.url else "",
                "problem": tunnel.problem, "trying": tunnel.trying,
            },
            Reach.NETWORK.value: {"url": here, "problem": problem, "trying": False},
        }  # fmt: skip

    def address(self, link: Link, token: str) -> tuple[str, str]:
        """The address to send, and why it is not the one that was wanted.

        Both are empty while the port is being opened.
        """
        door = self.door()
        wanted = door[link.reach.value]
        if wanted["url"] or not wanted["problem"]:
            return f"{wanted['url']}/s/{token}" if wanted["url"] else "", ""
        instead = door[Reach.NETWORK.value]["url"]
        return f"{instead}/s/{token}" if instead else "", wanted["problem"]

    # -- the ports

    def start(self) -> None:
        """Open the ports that live links need, and keep them open, in a thread; once."""
        self._loop.start()

    def start_with(self, subscribe: Callable[[Callable[[], None]], Subscription],
                   opened: Callable[[], bool]) -> None:  # fmt: skip
        """Start as soon as the store is open: it may hold links from before a restart."""

        def look() -> None:
            if opened():
                subscription.close()
                self.start()

        subscription = subscribe(look)
        look()

    def close(self) -> None:
        """Close all ports. Links stay as they are."""
        self._loop.close()

    def _run(self) -> None:
        forget: Callable[[], None] | None = None

        def turn() -> float:
            nonlocal forget
            try:
                links = self._links()
                forget = forget or self._listen_to(links)
                live = links.live_of(self._worker)
                self._serve({link.reach for link in live})
                urls = {reach: standing["url"] for reach, standing in self.door().items()}
                links.lead(self._worker, urls)
                if self._trouble:
                    return RETRY
                return min(live[0].left + 0.1, LONGEST_WAIT) if live else LONGEST_WAIT
            finally:
                self.changed.ring()

        self._loop.repeat(turn, "share links cannot be served", RETRY)
        if forget is not None:
            forget()
        self._serve(set())

    def _listen_to(self, links: LinkStore) -> Callable[[], None]:
        ends = links.changed.listen(self._loop.wake), links.met.listen(self.changed.ring)

        def end() -> None:
            for forget in ends:
                forget()

        return end

    def _serve(self, reaches: set[Reach]) -> None:
        """Open the ports that these need, and close the others."""
        self._trouble = ""
        if Reach.INTERNET in reaches and self._keeper is None:
            self._inner = self._listen("127.0.0.1", (0,), secure=True)
            if self._inner is not None:
                self._keeper = self._tunnel(self._inner.port, self._loop.wake)
                self._keeper.start()
        if Reach.INTERNET not in reaches and self._keeper is not None:
            keeper, self._keeper = self._keeper, None
            inner, self._inner = self._inner, None
            keeper.close()
            if inner is not None:
                inner.close()
        # Without a tunnel, at least those in the same network can open their link.
        failed = self._keeper is not None and bool(self._keeper.standing.problem)
        if self._outer is None and (Reach.NETWORK in reaches or failed):
            ports = (*range(self._port, self._port + SHARE_PORTS), 0) if self._port else (0,)
            self._outer = self._listen("0.0.0.0", ports)  # noqa: S104 - only links get in there
        if not reaches and self._outer is not None:
            outer, self._outer = self._outer, None
            outer.close()

    def _listen(
        self, host: str, ports: tuple[int, ...], *, secure: bool = False
    ) -> Listener | None:
        try:
            from .app import create_approver  # a web framework takes a while to import

            if self._app is None:
                self._app = create_approver(self._bus, self._links(), self._progress, self._names)
        except ImportError as error:
            self._trouble = f"the approver's page could not be loaded ({error})"
            advice = "share links cannot be served; pip install -r requirements.txt"
            report_failure(advice, error, outside=(ImportError,))
            return None
        failure: OSError | None = None
        for port in ports:
            try:
                listener = Listener(self._app, host, port, secure=secure)
            except OSError as error:
                self._trouble = f"no port can be listened on: {error.strerror}"
                failure = error
                continue
            self._trouble = ""
            listener.start()
            return listener
        if failure is not None:
            report_failure("links cannot be opened, no port can be listened on", failure)
        return None
