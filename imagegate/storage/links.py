"""Share links as they are kept: tokens, sessions, and when they end. SQLAlchemy Core.

A link belongs to a person. Its token opens it once, or in any browser, and then lives on as the
secret of a session. Of tokens, secrets and passphrases only hashes are kept.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from enum import Enum
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from ..core.links import HOUR, LONGEST, Link, May, NoEntry, Reach, UnknownLink
from ..core.model import ALL, MAX_NAME, BadAnswer, Selection, StoreError, plain
from ..core.news import Bell
from ..text.printable import name_of, one_line
from .queries.passphrases import MAX_PASSPHRASE, Passphrases, hash_passphrase
from .sql.database import Database
from .sql.tables import links, meta, sessions

BROWSERS = 100
"""Sessions that one address of a link may open, where it is not for one browser only."""
LOST = 600.0
"""Seconds in which an attempt to open a link may be sent again."""
SEEN = 60.0
"""Seconds in which a further sign of life of a link is not written down."""
SHOWN = 100
"""Links that are listed."""

_MARK = sa.text(
    "INSERT INTO meta (name, value) VALUES (:name, :value) "
    "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)


class LinkStore:
    """The links of a database. Every call is a transaction of its own. Thread-safe.

    All raise `StoreError` when the database cannot be used. `changed` rings whenever links were
    made, changed, opened or revoked, here or by another process; `met` when somebody was seen here.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._passphrases = Passphrases(database)
        self.changed = Bell()
        self.met = Bell()
        self._known = ""  # the number of changes when it last rang

    # -- the operator's side

    def create(
        self,
        name: str,
        *,
        may: str = May.MASK.value,
        among: Selection = ALL,
        reach: str = Reach.INTERNET.value,
        seconds: float = 24 * HOUR,
        passphrase: str = "",
        once: bool = True,
        worker: str = "",
    ) -> tuple[Link, str]:
        """A new link, and its token, which is shown only this once.

        Raises:
            BadAnswer: a name that is not one printable line, or a right, reach or duration that
                cannot be; the message says what can.
        """
        try:
            name = name_of(name, MAX_NAME)
        except ValueError as error:
            raise BadAnswer(f"a link needs a person's name: {error}") from error
        if not 0 < seconds <= LONGEST:
            raise BadAnswer(
                f"a link cannot be valid for {seconds / HOUR:g} hours; at most "
                f"{LONGEST / HOUR:g} (30 days)"
            )
        if len(passphrase) > MAX_PASSPHRASE or plain(passphrase) != passphrase:
            raise BadAnswer(f"a passphrase is text of at most {MAX_PASSPHRASE} characters")
        token, link_id = secrets.token_urlsafe(32), secrets.token_urlsafe(6)
        row = {
            "id": link_id, "name": name, "may": _one_of(May, may),
            "scope": json.dumps(asdict(among)), "reach": _one_of(Reach, reach), "door": "",
            "once": int(once),
            "passphrase": hash_passphrase(passphrase), "token": _hash(token), "opened": 0,
            "worker": plain(worker),
        }  # fmt: skip
        with self._change() as connection:
            now = self.database.now()
            connection.execute(
                links.insert().values(row | {"created_at": now, "expires_at": now + seconds})
            )
            over = sa.select(links.c.id).where(sa.not_(sa.and_(*self._live())))
            connection.execute(sessions.delete().where(sessions.c.link.in_(over)))
            self._passphrases.forget(connection)
        return self.get(link_id), token

    def reissue(
        self, link_id: str, worker: str = "", others: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[Link, str]:
        """A new address for a link; the one before opens nothing any more, browsers stay in.

        Args:
            worker: the id of the process whose door serves it from now on.
            others: the other processes that are alive: id -> name.

        Raises:
            UnknownLink: there is no such link.
            BadAnswer: it has ended, or another process serves it.
        """
        link = self.get(link_id)
        if link.worker in others and link.worker != plain(worker):
            raise BadAnswer(
                f"the link of {link.name} was made at {others[link.worker]}, whose door it opens; "
                "give it a new address there, or make a new link here"
            )
        token = secrets.token_urlsafe(32)
        with self._change() as connection:
            values = {"token": _hash(token), "opened": 0, "door": "", "worker": plain(worker)}
            done = connection.execute(
                links.update().where(links.c.id == plain(link_id), *self._live()).values(values)
            )
        link = self.get(link_id)
        if not done.rowcount:
            raise BadAnswer(f"the link of {link.name} is {link.state}; make a new one")
        return link, token

    def revoke(self, link_id: str) -> Link:
        """End a link, and with it all that opened it. Raises `UnknownLink`."""
        with self._change() as connection:
            mine = links.c.id == plain(link_id)
            connection.execute(
                links.update().where(mine, links.c.revoked_at.is_(None))
                .values(revoked_at=self.database.now())
            )  # fmt: skip
            connection.execute(sessions.delete().where(sessions.c.link == plain(link_id)))
        return self.get(link_id)

    def take_on(self, worker: str, before: Collection[str]) -> None:
        """The live links of earlier processes are served by this process now."""
        theirs = [links.c.worker.in_([plain(one) for one in before]), *self._live()]
        with self.database.read() as connection:  # most often there are none
            if connection.execute(sa.select(links.c.id).where(*theirs).limit(1)).first() is None:
                return
        with self._change() as connection:
            connection.execute(links.update().where(*theirs).values(worker=plain(worker)))

    def lead(self, worker: str, doors: Mapping[str, str]) -> None:
        """Remember where the addresses of a worker's links lead, once that is known.

        Args:
            doors: the address of the door by `Reach`; empty while there is none.
        """
        for reach, door in doors.items():
            new = [
                links.c.worker == plain(worker), links.c.reach == reach, links.c.door == "",
                *self._live(),
            ]  # fmt: skip
            with self.database.read() as connection:
                found = connection.execute(sa.select(links.c.id).where(*new).limit(1)).first()
            if door and found is not None:
                with self._change() as connection:
                    connection.execute(links.update().where(*new).values(door=door))

    def get(self, link_id: str) -> Link:
        """One link. Raises `UnknownLink`."""
        found = self._select(self._query().where(links.c.id == plain(link_id)))
        if not found:
            raise UnknownLink(f"no link has the id {link_id!r}")
        return found[0]

    def all(self, limit: int = SHOWN) -> list[Link]:
        """Links, newest first; those that have ended after those that are live."""
        live = sa.case((sa.and_(*self._live()), 0), else_=1)
        return self._select(self._query().order_by(live, links.c.created_at.desc()).limit(limit))

    def live_of(self, worker: str) -> list[Link]:
        """The live links that this process has to serve, the next to expire first."""
        query = self._query().where(links.c.worker == plain(worker), *self._live())
        return self._select(query.order_by(links.c.expires_at))

    # -- the approver's side

    def find(self, token: str) -> Link:
        """The link that a token would open. Changes nothing.

        Raises:
            NoEntry: it opens none.
        """
        found = self._select(self._query().where(links.c.token == _hash(token)))
        if not found:
            raise NoEntry("This link is not valid.")
        (link,) = found
        if not link.live:
            raise NoEntry(link.ended)
        return link

    def open(self, token: str, passphrase: str = "", key: str = "") -> tuple[Link, str]:
        """Open a link in a browser: the link, and the secret of the session.

        Args:
            key: of this attempt, which only that browser knows. Sent again within `LOST` seconds
                it gets in again, in place of the session whose secret never reached it.

        Raises:
            NoEntry: it does not open.
            TooManyAttempts: its passphrase was wrong too often.
        """
        link = self.find(token)
        kept = sa.select(links.c.passphrase).where(links.c.id == link.id)
        self._passphrases.check(link.id, kept, passphrase)
        secret = secrets.token_urlsafe(32)
        most = sa.case((links.c.once == 1, 1), else_=BROWSERS)
        # The first one wins, inside the database, whichever process it comes to.
        free = [links.c.token == _hash(token), links.c.opened < most, *self._live()]
        with self._change() as connection:
            now = self.database.now()
            values = {"opened": links.c.opened + 1, "seen_at": now}
            opened = connection.execute(links.update().where(*free).values(values)).rowcount
            mine = _hash(f"{key} {token}") if key else ""
            if opened:
                session = {"secret": _hash(secret), "link": link.id, "opened_at": now, "key": mine}
                connection.execute(sessions.insert().values(session))
            elif key:
                again = [
                    sessions.c.link == link.id, sessions.c.key == mine,
                    sessions.c.opened_at > now - LOST,
                ]  # fmt: skip
                replaced = sessions.update().where(*again).values(secret=_hash(secret))
                opened = connection.execute(replaced).rowcount
        if not opened:
            raise NoEntry("This link was opened in another browser already.")
        return link, secret

    def session(self, secret: str) -> Link | None:
        """The live link that a session belongs to."""
        mine = sa.select(sessions.c.link).where(sessions.c.secret == _hash(secret))
        query = self._query().where(links.c.id == mine.scalar_subquery(), *self._live())
        found = self._select(query)
        return found[0] if found else None

    def leave(self, secret: str) -> None:
        """End a session."""
        with self._change() as connection:
            connection.execute(sessions.delete().where(sessions.c.secret == _hash(secret)))

    def seen(self, link: Link) -> None:
        """Its person is here; written down now and then."""
        if link.idle is not None and link.idle < SEEN:
            return
        with suppress(StoreError):  # a courtesy, no more
            with self.database.write() as connection:
                now = {"seen_at": self.database.now()}
                connection.execute(links.update().where(links.c.id == link.id).values(now))
            self.met.ring()

    def now(self) -> float:
        """The time by which links end, in seconds since the epoch."""
        with self.database.read() as connection:
            return float(connection.execute(sa.select(self.database.now())).scalar_one())

    # -- other processes

    def look(self) -> None:
        """Ring if something has changed since it last rang."""
        query = sa.select(meta.c.value).where(meta.c.name == "links")
        with self.database.read() as connection:
            known = str(connection.execute(query).scalar() or "")
        if known != self._known:
            self._known = known
            self.changed.ring()

    # -- inside

    @contextmanager
    def _change(self) -> Iterator[sa.Connection]:
        """A transaction after which everybody looks at the links again."""
        with self.database.write() as connection:
            yield connection
            mark = {"name": "links", "value": secrets.token_hex(8)}
            # Last of all, so that two that change at once wait here and nowhere else.
            connection.execute(_MARK, mark)
            self.database.tell(connection, "link", "")
        self._known = mark["value"]
        self.changed.ring()

    def _live(self) -> list[sa.ColumnElement[bool]]:
        return [links.c.revoked_at.is_(None), links.c.expires_at > self.database.now()]

    def _query(self) -> sa.Select[Any]:
        live = sa.case((sa.and_(*self._live()), 1), else_=0).label("live")
        now = self.database.now()  # by one clock: machines' clocks differ
        idle = (now - links.c.seen_at).label("idle")
        left = (links.c.expires_at - now).label("left")
        return sa.select(*links.c, live, idle, left)

    def _select(self, query: sa.Select[Any]) -> list[Link]:
        with self.database.read() as connection:
            return [_link(row) for row in connection.execute(query)]


def _link(row: Any) -> Link:
    return Link(
        id=row.id, name=one_line(row.name, MAX_NAME), may=May(row.may),
        among=Selection(**json.loads(row.scope)),
        reach=Reach(row.reach), door=row.door, once=bool(row.once), passphrase=bool(row.passphrase),
        opened=row.opened, worker=row.worker, created_at=row.created_at,
        expires_at=row.expires_at, revoked_at=row.revoked_at, seen_at=row.seen_at,
        live=bool(row.live), idle=row.idle, left=row.left,
    )  # fmt: skip


def _one_of(kind: type[Enum], wanted: str) -> str:
    allowed: Collection[str] = [one.value for one in kind]
    if wanted not in allowed:
        name = kind.__name__.lower()
        raise BadAnswer(f"{name} is {wanted!r}; allowed are {', '.join(map(repr, allowed))}")
    return wanted


def _hash(secret: str) -> str:
    """Of a random secret of 256 bits, which nobody can guess from its hash."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
