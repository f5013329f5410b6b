"""From which pages and by which names this server may be called.

Two attacks need a browser, and nothing but what the browser itself says stops them:

- *A foreign page* calls the server at its true address. A call that changes something carries a
  header of ours, `PAGE_HEADER`: a page of another origin must ask before it may send one, and is
  never allowed to.
- *A rebound name*: the name of a stranger's page is made to lead to this server, so that both are
  of one origin. A name that a stranger can own is refused, unless the browser speaks TLS under
  it, for which it takes a certificate of that name.

A program that is no browser says neither ``Origin`` nor ``Sec-Fetch-Site``, and needs nothing.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import urlsplit

PAGE_HEADER = "x-imagegate"
"""Sent with each call of our own pages; the panel's says where it was loaded from."""
CORS = "access-control-"
"""How the headers begin by which a server lets pages of other origins read its answers."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
QUIET = 60.0
"""Seconds between two lines in the log about refused calls."""

log = logging.getLogger("imagegate")

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_HOST = rf"(?:(?P<name>{_LABEL}(?:\.{_LABEL})*)|\[(?P<address>[0-9a-f:.]+)\])"
_HOST_HEADER = re.compile(rf"{_HOST}(?::\d*)?")
"""RFC 9110, section 7.2: a name or an address, and maybe a port; as browsers write it."""
_ORIGIN = re.compile(rf"(?P<scheme>https?)://{_HOST}(?::\d+)?")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_PRIVATE = (".local", ".lan", ".internal", ".home.arpa", ".localhost")
"""No registry sells names below these (RFC 6762, 8375, 6761; ICANN for ``internal``)."""
_OWN_SITES = frozenset({"same-origin", "none"})

Values = Callable[[str], Sequence[str]]
"""All values of a request's header."""


class Origins:
    """Decides which calls a browser may make. Thread-safe.

    Args:
        names: under which people call this server, beside those that no stranger can own.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(name.lower() for name in names)
        self._lock = threading.Lock()  # guards the next
        self._quiet_until = 0.0

    def refusal(self, method: str, values: Values, *, tls: bool = False) -> str:
        """Why a call is refused; empty if it may be made.

        Args:
            tls: it came over TLS, as the socket says; a header never does.
        """
        why = self._rebound(values, tls) or _foreign(method, values)
        if why and self._due():
            log.warning("a call was refused: %s", why)
        return why

    def _rebound(self, values: Values, tls: bool) -> str:
        hosts, origins = values("host"), values("origin")
        host = host_name(hosts[0]) if len(hosts) == 1 else ""
        if not host:
            return f"the Host header names no server: {', '.join(hosts)[:100]!r}"
        secure, page = _origin(origins[0]) if len(origins) == 1 else (False, "")
        # Browsers send Sec-Fetch-* to HTTPS and loopback only, and let no page set it. The page of
        # a rebound name has neither.
        if tls or secure or values("sec-fetch-site"):
            return ""
        if origins and not page:  # "null", a file, an extension
            return _from(origins)
        for name in filter(None, (host, page)):
            if not (is_private(name) or name in self._names):
                return (
                    f"over plain HTTP anybody could pretend to be {name!r}, a page of another "
                    "origin too; call Image Gate by its address or over HTTPS, or set "
                    f"IMAGEGATE_ORIGINS={name} where it runs"
                )
        return ""

    def _due(self) -> bool:
        now = time.monotonic()
        with self._lock:
            if now < self._quiet_until:
                return False
            self._quiet_until = now + QUIET
            return True


def _foreign(method: str, values: Values) -> str:
    sites, origins = values("sec-fetch-site"), values("origin")
    own = not sites or (len(sites) == 1 and sites[0] in _OWN_SITES)
    if method in SAFE_METHODS:
        # A link on another page leads here; what that page's scripts and images ask for does not.
        return "" if own or list(values("sec-fetch-mode")) == ["navigate"] else _from(origins)
    if not own:
        return _from(origins)
    if (sites or origins) and not values(PAGE_HEADER):
        return (
            f"the header {PAGE_HEADER!r} is missing, which a page of another origin cannot send; "
            "a page that changes anything here needs it"
        )
    return ""


def _from(origins: Sequence[str]) -> str:
    shown = f" ({', '.join(origins)[:100]})" if origins else ""
    return f"a page of another origin{shown} may not call Image Gate"


def host_name(host: str) -> str:
    """The name or address in a Host header; empty if it is none that a browser would send."""
    found = _HOST_HEADER.fullmatch(host.lower()) if host.isascii() else None
    return _name(found) if found else ""


def _origin(origin: str) -> tuple[bool, str]:
    """Whether an origin is one of HTTPS, and its name; empty for an opaque one, and for no URL."""
    found = _ORIGIN.fullmatch(origin.lower()) if origin.isascii() else None
    name = _name(found) if found else ""
    return bool(name and found and found["scheme"] == "https"), name


def _name(found: re.Match[str]) -> str:
    name, address = found["name"], found["address"]
    if address:
        return address if _is_address(address) else ""
    # Browsers write every number as four decimal ones: another is no address, and no name.
    numeric = _NUMBER.fullmatch(name.rpartition(".")[2])
    return "" if numeric and not _is_address(name) else str(name)


def is_private(name: str) -> bool:
    """Whether a name or address is one that no stranger can have lead here."""
    return _is_address(name) or "." not in name or name.endswith(_PRIVATE)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def name_in(text: str) -> str:
    """The name in a name, an origin or a URL that somebody set. Raises ValueError."""
    parts = urlsplit(text if "://" in text else f"//{text}")
    name = host_name(parts.netloc.rpartition("@")[2])
    if not name or parts.scheme not in ("", "http", "https"):
        raise ValueError(f"{text!r} is neither a name nor an origin")
    return name
