"""Listening sockets, and what a request's scope says about the socket it came through."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass

BACKLOG = 128
"""Connections that the system queues until they are accepted."""
SECURE = "imagegate.secure"
"""Key in a request's scope: whether the person speaks HTTPS. No header decides it."""
SOURCE = "imagegate.source"
"""Key in a request's scope: the address it comes from, or `TUNNEL`. No header decides it."""
TUNNEL = "the tunnel"


@dataclass(frozen=True)
class Limits:
    """What strangers may use up of a listener.

    When there is no room for one more connection, the one that has waited longest without a
    request is closed; if all are busy, the new one is.

    Attributes:
        connections: the most at once; never more than a quarter of the files that this process
            may have open.
        each: the most at once from one address. Through a tunnel all come from one address, so
            only ``connections`` counts there.
        head: seconds in which a request's head must be complete, from the start of the connection
            or from the first byte after an answer.
        idle: seconds that a silent connection is kept after an answer. Gradio's tunnel keeps its
            own for 60, and this end keeps them longer: it must never close one on which a click
            is just under way.
        stall: seconds that an answer is kept while the other end reads nothing of it.
        head_size: the most bytes of a request's head.
    """

    connections: int = 512
    each: int = 64
    head: float = 10.0
    idle: float = 75.0
    stall: float = 60.0
    head_size: int = 16 * 2**10


LIMITS = Limits()


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket for uvicorn; port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # asyncio sets this only on sockets that name their protocol, which create_server's do not.
    # Without it the body of every answer waits some 40 ms for the browser to confirm its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address_in_network() -> str:
    """This machine's address in its network; empty where it is in none."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; an address that is nobody's (RFC 5737)
        return str(probe.getsockname()[0])
    return ""
