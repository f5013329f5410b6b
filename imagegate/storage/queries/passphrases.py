"""Passphrases of share links: hashed slowly, and wrong ones counted. SQLAlchemy Core."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any

import sqlalchemy as sa

from ...core.links import TooManyAttempts, WrongPassphrase
from ...core.model import plain
from ..sql.database import Database
from ..sql.tables import wrong_passphrases as wrong

MAX_PASSPHRASE = 200
WRONG = ((5, 60.0), (20, 3600.0))
"""Wrong passphrases of one link that are tried within so many seconds: more have to wait."""


class Passphrases:
    """Checks passphrases, of all processes together no more wrong ones than `WRONG`."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def check(self, link_id: str, query: sa.Select[Any], given: str) -> None:
        """Compare a passphrase with the hash that ``query`` selects; an empty one takes any.

        Raises:
            WrongPassphrase: it is another.
            TooManyAttempts: there were too many wrong ones.
        """
        with self.database.read() as connection:
            kept = str(connection.execute(query).scalar_one())
            if not kept:
                return
            self._left(connection, link_id)
        # It counts as wrong while it is compared, so that of many at once no more are compared.
        attempt = {"id": secrets.token_hex(8), "link": link_id}
        with self.database.write() as connection:
            connection.execute(query.with_for_update())  # in SQLite a writer is alone anyway
            left = self._left(connection, link_id)
            connection.execute(wrong.insert().values(at=self.database.now(), **attempt))
        if not _same(given, kept):
            raise WrongPassphrase(left - 1)
        with self.database.write() as connection:
            connection.execute(wrong.delete().where(wrong.c.id == attempt["id"]))

    def forget(self, connection: sa.Connection) -> None:
        """Drop those that do not count any more."""
        old = wrong.c.at < self.database.now() - WRONG[-1][1]
        connection.execute(wrong.delete().where(old))

    def _left(self, connection: sa.Connection, link_id: str) -> int:
        """How many more wrong ones are tried within the hour; raises `TooManyAttempts`."""
        most, hour = WRONG[-1]
        age = self.database.now() - wrong.c.at
        query = sa.select(age).where(wrong.c.link == link_id, age < hour).order_by(age)
        ages = list(connection.execute(query.limit(most)).scalars())
        for count, span in WRONG:
            if len(ages) >= count and ages[count - 1] < span:
                raise TooManyAttempts(span - ages[count - 1])
        return most - len(ages)


def hash_passphrase(passphrase: str, salt: str = "") -> str:
    """Slow on purpose (RFC 7914): people choose these."""
    if not passphrase:
        return ""
    salt = salt or secrets.token_hex(16)
    made = hashlib.scrypt(passphrase.encode(), salt=salt.encode(), n=2**14, r=8, p=1)
    return f"{salt}${made.hex()}"


def _same(given: str, kept: str) -> bool:
    if not kept:
        return True
    if len(given) > MAX_PASSPHRASE or plain(given) != given:
        return False  # scrypt's HMAC takes one with a NUL after it for the same
    return hmac.compare_digest(hash_passphrase(given, kept.partition("$")[0]) or "-", kept)
