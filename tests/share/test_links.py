"""Share links as they are kept: tokens, sessions, rights, time; on every store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagegate.core.links import (
    LONGEST,
    May,
    NoEntry,
    Reach,
    TooManyAttempts,
    UnknownLink,
    WrongPassphrase,
    read_scope,
)
from imagegate.core.model import ALL, MAX_NAME, BadAnswer, Selection
from imagegate.storage.links import LinkStore
from imagegate.storage.sql.database import Database
from tests.conftest import new_store
from tests.support.stored import PATIENCE, Store, sql, store_of


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def links(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LinkStore]:
    with new_store(request, request.param, tmp_path) as store:
        yield store_of(store.bus()).links


def expire(links: LinkStore, link_id: str) -> None:
    with links.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE links SET expires_at = 1 WHERE id = '{link_id}'")


def everything(links: LinkStore) -> str:
    with links.database.read() as connection:
        rows = [
            connection.exec_driver_sql(f"SELECT * FROM {table}").all()
            for table in ("links", "sessions")
        ]
    return repr(rows)


def test_what_a_link_is_by_default(links: LinkStore) -> None:
    """A link that is merely named shows all, takes answers and masks, for a day, once."""
    link, _ = links.create("Ada")
    assert (link.may, link.among, link.reach, link.once) == (May.MASK, ALL, Reach.INTERNET, True)
    assert link.expires_at - link.created_at == pytest.approx(24 * 3600)
    assert (link.state, link.opened, link.seen_at, link.passphrase) == ("live", 0, None, False)


def test_no_secret_is_kept(links: LinkStore) -> None:
    """Neither a token, nor a passphrase, nor a session's secret can be read from the store."""
    link, token = links.create("Ada", passphrase="open sesame")
    _, secret = links.open(token, "open sesame")
    kept = everything(links)
    assert link.id in kept
    for hidden in (token, secret, "open sesame"):
        assert hidden not in kept
        assert hidden not in repr(links.get(link.id).to_json())


def test_the_first_browser_gets_in_alone(links: LinkStore) -> None:
    """A link for one browser opens once; its session goes on."""
    link, token = links.create("Ada")
    _, secret = links.open(token)
    with pytest.raises(NoEntry, match="another browser already") as failure:
        links.open(token)
    assert not isinstance(failure.value, WrongPassphrase)
    found = links.session(secret)
    assert found is not None
    assert (found.id, found.opened) == (link.id, 1)


def test_of_many_browsers_at_once_one_gets_in(links: LinkStore) -> None:
    """When eight browsers open a link for one at the same moment, one gets in."""
    _, token = links.create("Ada")
    barrier, got = threading.Barrier(8), []

    def enter() -> None:
        barrier.wait()
        try:
            got.append(links.open(token)[1])
        except NoEntry:
            got.append("")

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(got) == 8
    assert sum(bool(secret) for secret in got) == 1


def test_a_link_for_several_browsers(links: LinkStore) -> None:
    """A link that is not for one browser only opens again."""
    _, token = links.create("Ada", once=False)
    secrets = {links.open(token)[1] for _ in range(3)}
    assert all(links.session(secret) for secret in secrets)


def test_a_revoked_link_opens_nothing(links: LinkStore) -> None:
    """Revoked, its address opens nothing, its sessions are over, and it is said how it ended."""
    link, token = links.create("Ada", once=False)
    _, secret = links.open(token)
    assert links.revoke(link.id).state == "revoked"
    assert links.session(secret) is None
    with pytest.raises(NoEntry, match="was revoked"):
        links.find(token)
    with pytest.raises(NoEntry):
        links.open(token)
    assert links.revoke(link.id).state == "revoked"  # again changes nothing


def test_an_expired_link_opens_nothing(links: LinkStore) -> None:
    """When its time is over a link and its sessions end by themselves."""
    link, token = links.create("Ada", once=False)
    _, secret = links.open(token)
    expire(links, link.id)
    assert links.session(secret) is None
    with pytest.raises(NoEntry, match="has expired"):
        links.open(token)
    assert links.get(link.id).state == "expired"
    assert links.live_of("") == []


def test_a_new_address(links: LinkStore) -> None:
    """A new address opens the link once more; the old one is dead, who is in stays in."""
    link, old = links.create("Ada")
    _, secret = links.open(old)
    again, new = links.reissue(link.id)
    assert again.id == link.id
    with pytest.raises(NoEntry):
        links.open(old)
    _, second = links.open(new)
    assert links.session(secret)
    assert links.session(second)
    links.revoke(link.id)
    with pytest.raises(BadAnswer, match="revoked; make a new one"):
        links.reissue(link.id)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["", "open", "open sesame ", "x" * 10_000, "half \ud800"])
def test_a_wrong_passphrase(links: LinkStore, given: str) -> None:
    """Without its passphrase a link does not open, and is not used up."""
    _, token = links.create("Ada", passphrase="open sesame")
    with pytest.raises(NoEntry, match="not the passphrase") as failure:
        links.open(token, given)
    assert isinstance(failure.value, WrongPassphrase)
    links.open(token, "open sesame")


@pytest.mark.parametrize("token", ["", "x", "x" * 100_000, "half \ud800", "nul \0", "' OR 1=1 --"])
def test_a_token_that_is_none(links: LinkStore, token: str) -> None:
    """What was never a token opens nothing, whatever it looks like."""
    links.create("Ada")
    with pytest.raises(NoEntry, match="not valid") as failure:
        links.open(token)
    assert not isinstance(failure.value, WrongPassphrase)
    assert links.session(token) is None


def test_a_tampered_token(links: LinkStore) -> None:
    """A token with any one character changed opens nothing."""
    _, token = links.create("Ada", once=False)
    for at, letter in enumerate(token):
        other = "A" if letter != "A" else "B"
        with pytest.raises(NoEntry):
            links.find(token[:at] + other + token[at + 1 :])
    links.find(token)


def test_leaving(links: LinkStore) -> None:
    """A session that is left is over; others of the link are not."""
    _, token = links.create("Ada", once=False)
    (_, one), (_, two) = links.open(token), links.open(token)
    links.leave(one)
    assert links.session(one) is None
    assert links.session(two)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": " "}, "name"),
        ({"name": "x" * (MAX_NAME + 1)}, f"1 to {MAX_NAME}"),
        ({"may": "all"}, "'look', 'decide', 'mask'"),
        ({"reach": "moon"}, "'internet', 'network'"),
        ({"seconds": 0}, "0 hours"),
        ({"seconds": LONGEST + 1}, "30 days"),
        ({"seconds": float("nan")}, "nan hours"),
        ({"passphrase": "x" * 201}, "200 characters"),
    ],
)
def test_a_link_that_cannot_be(links: LinkStore, given: dict[str, Any], says: str) -> None:
    """What a link cannot be is refused with what it can be."""
    with pytest.raises(BadAnswer, match=says):
        links.create(**{"name": "Ada", **given})
    assert links.all() == []


@pytest.mark.parametrize(
    ("scope", "among"),
    [
        ({"kind": "all"}, ALL),
        ({"kind": "title", "title": "Hero"}, Selection(title="Hero")),
        ({"kind": "title", "title": "A", "workflow": "w"}, Selection(workflow_id="w", title="A")),
        ({"kind": "gate", "gate": "g"}, Selection(gate_id="g")),
    ],
)  # fmt: skip
def test_scopes(links: LinkStore, scope: dict[str, Any], among: Selection) -> None:
    """Each scope is kept, and told again as it was given."""
    assert read_scope(scope) == among
    link, _ = links.create("Ada", among=among)
    told = links.get(link.id).scope()
    assert {key: value for key, value in told.items() if value} == scope


@pytest.mark.parametrize(
    "scope",
    [
        {},
        {"kind": "everything"},
        {"kind": "all", "title": "Hero"},
        {"kind": "title"},
        {"kind": "title", "title": ""},
        {"kind": "title", "title": 3},
        {"kind": "gate", "gate": ""},
        {"kind": "gate", "gate": "g", "workflow": "w"},
        {"kind": ["all"]},
    ],
)
def test_scopes_that_cannot_be(scope: dict[str, Any]) -> None:
    """A scope that is none, or that would silently show all, is refused."""
    with pytest.raises(BadAnswer):
        read_scope(scope)


def test_the_list(links: LinkStore) -> None:
    """Links are listed newest first, ended ones after live ones; a worker serves its own."""
    first, _ = links.create("Ada", worker="a")
    second, _ = links.create("Ben", worker="b")
    third, _ = links.create("Cem", worker="a", seconds=60)
    links.revoke(second.id)
    assert [link.name for link in links.all()] == ["Cem", "Ada", "Ben"]
    assert [link.id for link in links.live_of("a")] == [third.id, first.id]
    with pytest.raises(UnknownLink):
        links.get("nobody")
    with pytest.raises(UnknownLink):
        links.revoke("nobody")


def test_when_somebody_was_last_seen(links: LinkStore) -> None:
    """A sign of life is written down now and then, not each time."""
    link, _ = links.create("Ada")
    met: list[int] = []
    changed: list[int] = []
    links.met.listen(lambda: met.append(1))
    links.changed.listen(lambda: changed.append(1))
    links.seen(link)
    now = links.get(link.id)
    assert now.seen_at is not None
    links.seen(now)
    links.seen(now)
    assert (len(met), changed) == (1, [])  # nobody's page has to look at its link again


def test_an_answer_that_was_lost_locks_nobody_out(links: LinkStore) -> None:
    """Who sends the same attempt again gets in again, in place of the session that never reached
    them; anybody else does not.
    """
    link, token = links.create("Ada", passphrase="sesame")
    _, lost = links.open(token, "sesame", "my key")
    _, secret = links.open(token, "sesame", "my key")
    assert links.session(lost) is None
    assert links.session(secret)
    assert links.get(link.id).opened == 1
    for key in ("", "another key"):
        with pytest.raises(NoEntry, match="another browser"):
            links.open(token, "sesame", key)
    with pytest.raises(NoEntry, match="passphrase"):
        links.open(token, "", "my key")
    with links.database.write() as connection:
        connection.exec_driver_sql("UPDATE sessions SET opened_at = 1")
    with pytest.raises(NoEntry, match="another browser"):
        links.open(token, "sesame", "my key")


def test_sessions_of_links_that_are_over_go(links: LinkStore) -> None:
    """What is left of expired links goes when another one is made."""
    link, token = links.create("Ada")
    links.open(token)
    expire(links, link.id)
    links.create("Ben")
    with links.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM sessions").scalar() == 0


def test_the_time_that_is_left(links: LinkStore) -> None:
    """How long a link lasts is told by the clock that ends it."""
    link, _ = links.create("Ada", seconds=100)
    assert 90 < link.left <= 100
    assert links.now() + link.left == pytest.approx(link.expires_at, abs=5)


def test_other_processes_hear_of_it(shared: Store) -> None:
    """Whatever changes in one process, all processes that share the store look at again."""
    one, two = store_of(shared.bus()).links, store_of(shared.bus()).links
    heard = threading.Event()
    two.changed.listen(heard.set)
    link, _ = one.create("Ada")
    assert heard.wait(PATIENCE)
    heard.clear()
    one.revoke(link.id)
    assert heard.wait(PATIENCE)


def test_a_change_of_gates_is_no_change_of_links(shared: Store) -> None:
    """What else happens in the store does not wake who listens for links."""
    one, two = shared.bus(), shared.bus()
    heard: list[int] = []
    store_of(two).links.changed.listen(lambda: heard.append(1))
    sql(one, "UPDATE gates SET reason = '' WHERE id = 'nobody'")
    link, _ = store_of(one).links.create("Ada")
    done = threading.Event()
    store_of(two).links.changed.listen(done.set)
    store_of(one).links.revoke(link.id)
    assert done.wait(PATIENCE)
    assert len(heard) <= 2


def test_wrong_passphrases_of_several_processes(shared: Store) -> None:
    """Of wrong passphrases that come to two processes at the same moment no more are compared than
    to one, and a restart forgets none.
    """
    stores = [store_of(shared.bus()).links for _ in range(2)]
    _, token = stores[0].create("Ada", passphrase="sesame")
    barrier, got = threading.Barrier(16), []

    def guess(number: int) -> None:
        barrier.wait(PATIENCE)
        with pytest.raises((WrongPassphrase, TooManyAttempts)) as failure:
            stores[number % 2].open(token, "guess")
        got.append(failure.type)

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * PATIENCE)
    assert (got.count(WrongPassphrase), got.count(TooManyAttempts)) == (5, 11)
    shared.close()
    with pytest.raises(TooManyAttempts) as failure:
        store_of(shared.bus()).links.open(token, "sesame")
    assert 0 < failure.value.after <= 60


def test_links_of_a_folder(tmp_path: Path) -> None:
    """A store in memory, which a folder's session has, keeps links as well."""
    links = LinkStore(Database("sqlite://", "folder"))
    _, token = links.create("Ada")
    assert links.find(token).name == "Ada"
    links.database.close()
