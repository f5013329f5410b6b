"""What is read from the environment, and what is refused."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from imagegate.core.model import StoreError
from imagegate.core.settings import (
    KEEP_DAYS,
    NOTIFY_AFTER,
    NoticeSettings,
    Settings,
    read_notice_settings,
    read_settings,
)

DAY = 24 * 3600


def read(folder: Path, worker: str = "", **environment: Any) -> Settings:
    return read_settings(folder, worker=worker, environment=environment)


def test_without_any_setting(tmp_path: Path) -> None:
    """Files in the given folder, kept for a week, under the machine's name."""
    found = read(tmp_path)
    assert found.store == f"sqlite:///{tmp_path}/gates.sqlite"
    assert found.pictures == str(tmp_path / "pictures")
    assert found.worker == socket.gethostname()
    assert found.keep == KEEP_DAYS * DAY == 7 * DAY


def test_everything_set(tmp_path: Path) -> None:
    """What is set counts, without blanks around it."""
    found = read(
        tmp_path,
        worker="a",
        IMAGEGATE_STORE=" postgresql+psycopg://gate@db/gates ",
        IMAGEGATE_PICTURES=" s3://bucket/gates ",
        IMAGEGATE_WORKER=" box 7 ",
        IMAGEGATE_KEEP_DAYS=" 0.5 ",
    )
    assert found == Settings(
        "postgresql+psycopg://gate@db/gates",
        "s3://bucket/gates",
        "box 7",
        DAY / 2,
        home=tmp_path,
    )


def test_blank_is_not_set(tmp_path: Path) -> None:
    """A variable that is there and says nothing is as one that is not."""
    blank = dict.fromkeys(
        ("IMAGEGATE_STORE", "IMAGEGATE_PICTURES", "IMAGEGATE_WORKER", "IMAGEGATE_KEEP_DAYS"), " "
    )
    assert read(tmp_path, worker="a", **blank) == read(tmp_path, worker="a")


def test_pictures_lie_beside_a_file(tmp_path: Path) -> None:
    """Whoever names a file for the store need not name a place for the pictures."""
    found = read(tmp_path, IMAGEGATE_STORE=f"sqlite:///{tmp_path}/else/where.sqlite")
    assert found.pictures == str(tmp_path / "else" / "pictures")


@pytest.mark.parametrize("store", ["postgresql+psycopg://gate@db/gates", "sqlite://"])
def test_a_shared_store_needs_a_place(tmp_path: Path, store: str) -> None:
    """Where no folder suggests itself, the message asks for one."""
    with pytest.raises(StoreError, match="IMAGEGATE_PICTURES is not"):
        read(tmp_path, IMAGEGATE_STORE=store)


@pytest.mark.parametrize("days", ["a week", "-1", "inf", "nan"])
def test_days_that_are_none(tmp_path: Path, days: str) -> None:
    """The message names the setting, what it is and what it may be."""
    with pytest.raises(StoreError, match=rf"IMAGEGATE_KEEP_DAYS is '{days}'; give a number"):
        read(tmp_path, IMAGEGATE_KEEP_DAYS=days)


def test_whether_there_is_a_store(tmp_path: Path) -> None:
    """A file is there or not; a server may be."""
    path = tmp_path / "gates.sqlite"
    assert not read(tmp_path).exists
    path.touch()
    assert read(tmp_path).exists
    assert Settings("postgresql+psycopg://gate@db/gates", "p", "w").exists
    assert not Settings("sqlite://", "p", "w").exists
    assert Settings(f"sqlite:///{path}?timeout=3", "p", "w").exists


def test_a_long_or_odd_name(tmp_path: Path) -> None:
    """A name is kept as far as every database and page can show it."""
    found = read(tmp_path, IMAGEGATE_WORKER="n" * 300)
    assert found.worker == "n" * 99 + "…"
    assert "\udcff" not in read(tmp_path, IMAGEGATE_WORKER="box \udcff").worker


def test_nobody_is_told_by_default() -> None:
    """Without any setting there are no notices; blanks are no setting."""
    names = ("", "_AFTER", "_DIGEST", "_IMAGE")
    blank = {f"IMAGEGATE_NOTIFY{name}": " " for name in names} | {"IMAGEGATE_URL": " "}
    assert read_notice_settings({}) == NoticeSettings() == read_notice_settings(blank)
    assert NoticeSettings() == NoticeSettings("", NOTIFY_AFTER, 0, False, "")
    assert NOTIFY_AFTER == 60


def test_who_is_told() -> None:
    """What is set counts; a service's address does not show in what is printed of it."""
    found = read_notice_settings(
        {
            "IMAGEGATE_NOTIFY": " json://ada:SECRET@host, form://host ",
            "IMAGEGATE_NOTIFY_AFTER": "0",
            "IMAGEGATE_NOTIFY_DIGEST": " 600 ",
            "IMAGEGATE_NOTIFY_IMAGE": "1",
            "IMAGEGATE_URL": " https://gate.example/imagegate/ ",
        }
    )
    address = "json://ada:SECRET@host, form://host"
    assert found == NoticeSettings(address, 0, 600, True, "https://gate.example/imagegate/")
    assert "SECRET" not in repr(found)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("IMAGEGATE_NOTIFY_AFTER", "a while", "give a number of seconds, 0 or more"),
        ("IMAGEGATE_NOTIFY_AFTER", "-1", "give a number of seconds"),
        ("IMAGEGATE_NOTIFY_DIGEST", "nan", "give a number of seconds"),
        ("IMAGEGATE_NOTIFY_IMAGE", "yes", "give 1 to send the preview along, or 0"),
        ("IMAGEGATE_URL", "gate.example", "give the panel's http:// or https:// address"),
        ("IMAGEGATE_URL", "javascript:alert(1)", "http:// or https://"),
        ("IMAGEGATE_URL", "http://a b", "http:// or https://"),
    ],
)
def test_notices_that_cannot_be(name: str, value: str, allowed: str) -> None:
    """The message names the setting, what it is and what it may be."""
    with pytest.raises(StoreError) as caught:
        read_notice_settings({name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}; ")
    assert allowed in str(caught.value)
