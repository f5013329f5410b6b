"""URLs as people may see them: without passwords, tokens and keys.

A URL is parsed as its user parses it: a store's by SQLAlchemy, a picture place's by Python's own
parser, as in fsspec. Where it is uncertain where a password ends, only the scheme is shown.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus, urlsplit

HIDDEN = "***"

# What may be shown of a query; anything else could be a secret.
_HARMLESS = {
    "application_name", "cache", "channel_binding", "check_same_thread", "client_encoding",
    "connect_timeout", "gssencmode", "host", "hostaddr", "immutable", "keepalives",
    "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts", "mode",
    "nolock", "passfile", "port", "region", "service", "sslcert", "sslcrl", "sslkey", "sslmode",
    "sslrootcert", "target_session_attrs", "tcp_user_timeout", "timeout", "uri", "user",
    "versionId", "vfs",
}  # fmt: skip


@dataclass(frozen=True)
class Redacted:
    """What may be shown of a URL.

    Attributes:
        shown: the URL itself, without its secrets.
        clear: whether it is certain where its password ends.
        secrets: strings that no text may contain, however they are written.
    """

    shown: str
    clear: bool = True
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    def text(self, text: str) -> str:
        """A text, such as an error's message, without the secrets of this URL."""
        for secret in sorted(self._written(), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text

    def cause(self, error: BaseException) -> BaseException | None:
        """The error as the cause of another one; None if its traceback would hold a secret."""
        if not self.secrets:
            return error
        said = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return error if self.text(said) == said else None

    def _written(self) -> set[str]:
        """The secrets in every form in which a driver, or Python, may write them."""
        found = set(self.secrets)
        for secret in self.secrets:
            found |= {unquote(secret), unquote_plus(secret)}
        for secret in list(found):
            backslashed = secret.replace("\\", "\\\\")
            found |= {
                quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1],
                json.dumps(secret)[1:-1], backslashed, backslashed.replace("'", "\\'"),
            }  # fmt: skip
        return found - {""}


def store_url(url: str) -> Redacted:
    """What may be shown of a store's URL."""
    import sqlalchemy as sa

    scheme, separator, rest = url.partition("://")
    if not separator:  # a file's path, or the password of something that is no URL
        return Redacted(url) if not set(url) & set("@=") else _hidden("", url)
    try:
        parsed = sa.make_url(url)
    except Exception:  # what it says would hold the password
        return _hidden(scheme, rest)
    query = [
        (key, value)
        for key, values in parsed.query.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    password = str(parsed.password or "")
    if parsed.username is not None or password:
        # A sign that is not escaped divides the URL in another place than its author meant.
        host = parsed.host or ""
        login = rest[: rest.find(f"@{host}")]
        user, _, written = login.partition(":")
        if "@" in login + host or "?" in user or ("?" in written and "=" in written):
            return _hidden(scheme, rest)
    secrets = {password} | {value for key, value in query if key not in _HARMLESS}
    file = scheme.startswith("sqlite") and parsed.username is None
    if "@" in (parsed.database or "") and not file:
        # Its password may go on there, and what was taken for the host may be the middle of it.
        return _hidden(scheme, rest)
    query, pieces = _pieces(query)
    secrets |= pieces
    shown = parsed.set(query={}).render_as_string(hide_password=True) + _query(query)
    return Redacted(shown, secrets=frozenset(secrets - {""}))


def place_url(url: str) -> Redacted:
    """What may be shown of the URL of a picture place; a path is shown as it is."""
    if "://" not in url and "::" not in url:
        login, at, _ = url.partition("@")
        if at and ":" in login and not Path(url).is_absolute():  # a URL that lacks its "//"
            return _hidden("", url)
        return Redacted(url)
    shown: list[str] = []
    secrets: set[str] = set()
    query = False
    for part in url.split("::"):  # fsspec's chains
        found = _part(part)
        # What comes after a query and is no URL may be the rest of a value.
        rest_of_value = query and "://" not in part
        query = query or "?" in part or "#" in part
        if not found.clear or rest_of_value:
            return _hidden(url.partition("://")[0].partition("::")[0], url)
        shown.append(found.shown)
        secrets |= found.secrets
    return Redacted("::".join(shown), secrets=frozenset(secrets))


def _part(url: str) -> Redacted:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return Redacted(url) if not set(url) & set("@?") else _hidden("", url)
    try:
        parsed = urlsplit(url)
        _ = parsed.port  # raises where it is none
    except ValueError:
        return _hidden(scheme, rest)
    login, at, host = parsed.netloc.rpartition("@")
    if ":" in host and not at and "@" in rest:  # the host may be a user, the port half a password
        path = parsed.path.partition("@")[0].strip("/")
        return Redacted(f"{scheme}://{HIDDEN}", secrets=frozenset({rest, path} - {""}))
    user, _, password = login.partition(":")
    secrets = {password}
    if user and not password and scheme in ("http", "https"):  # a token, most likely
        secrets, user = {user}, HIDDEN
    query = parse_qsl(parsed.query, keep_blank_values=True)
    if parsed.query and not query:
        query = [(HIDDEN, parsed.query)]
    secrets |= {value or key for key, value in query if key not in _HARMLESS}
    query, pieces = _pieces(query)
    secrets |= {*pieces, parsed.fragment}
    shown = f"{scheme}://{user}{f':{HIDDEN}' if password else ''}{at}{host}{parsed.path}"
    shown += _query(query) + (f"#{HIDDEN}" if parsed.fragment else "")
    return Redacted(shown, secrets=frozenset(secrets - {""}))


def _pieces(query: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], set[str]]:
    """A query without what may be the rest of a secret that has an ``&`` in it; those pieces."""
    shown: list[tuple[str, str]] = []
    pieces: set[str] = set()
    for key, value in query:
        if key not in _HARMLESS and any(before not in _HARMLESS for before, _ in shown):
            pieces.add(key)
            key, value = HIDDEN, ""
        shown.append((key, value))
    return shown, {piece for piece in pieces if len(piece) > 3}  # a shorter one is in any text


def _query(query: list[tuple[str, str]]) -> str:
    said = [
        f"{key}={value}" if key in _HARMLESS else f"{key}={HIDDEN}" if value else HIDDEN
        for key, value in query
    ]
    return f"?{'&'.join(said)}" if said else ""


def _hidden(scheme: str, rest: str) -> Redacted:
    shown = f"{scheme}://{HIDDEN}" if scheme and scheme.replace("+", "").isalnum() else HIDDEN
    return Redacted(shown, clear=False, secrets=frozenset({rest} - {""}))
