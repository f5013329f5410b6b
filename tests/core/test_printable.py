"""Text from outside: one printable line in names and notices, escaped in the log."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from imagegate.core.model import MAX_NAME, BadAnswer
from imagegate.storage.links import LinkStore
from imagegate.text.printable import escaped, name_of, one_line
from tests.share.test_share import API, client, here, links

__all__ = ["client", "here", "links"]

STRANGE = {
    "escape sequence": "\x1b[31m",
    "line feed": "\n",
    "carriage return": "\r",
    "tabulator": "\t",
    "nothing": "\0",
    "delete": "\x7f",
    "second set of controls": "\x9b",
    "next line": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "right to left override": "\u202e",
    "isolate": "\u2067",
    "right to left mark": "\u200f",
    "arabic letter mark": "\u061c",
    "zero width space": "\u200b",
    "zero width joiner": "\u200d",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "soft hyphen": "\u00ad",
    "tag": "\U000e0041",
    "hangul filler": "\u3164",
    "half a character": "\ud800",
    "not given out": "\U000e0fff",
    "private": "\ue000",
}


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
def test_a_name_is_one_printable_line(links: LinkStore, strange: str) -> None:
    """A link's name with anything but what can be printed on one line is refused, and the message
    names the character without containing it.
    """
    with pytest.raises(BadAnswer, match=rf"U\+{ord(strange[0]):04X}") as refused:
        links.create(f"A{strange}da")
    assert str(refused.value).isprintable()
    assert links.all() == []


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
def test_a_name_by_rest(client: Any, strange: str) -> None:
    """REST answers 422 to such a name."""
    body = json.dumps({"name": f"A{strange}da"})
    answer = client.post(f"{API}/links", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert "one printable line" in answer.json()["error"]


@pytest.mark.parametrize(
    "name",
    [
        "Ada",
        "Ada Lovelace",
        "Zoë",
        "José e\u0301",
        "山田 太郎",
        "محمد",
        "❤\ufe0f Ada",
        "O'Neil <x>",
    ],
)
def test_names_that_people_have(name: str) -> None:
    """Names in any script, with accents and emoji, are kept as they are."""
    assert name_of(f" {name}\u00a0", MAX_NAME) == name


@pytest.mark.parametrize("name", ["", " ", "\u3000", "\u0301", "x" * (MAX_NAME + 1)])
def test_no_name(name: str) -> None:
    """A name that shows nothing, or is too long, is none."""
    with pytest.raises(ValueError, match=f"1 to {MAX_NAME}"):
        name_of(name, MAX_NAME)


def test_a_name_from_before(links: LinkStore) -> None:
    """A name that is in the store already is shown as one printable line."""
    link, _ = links.create("Ada")
    with links.database.write() as connection:
        strange = "A\x1b[2Jd\na\u202e\u200b"
        connection.exec_driver_sql("UPDATE links SET name = ?", (strange,))
    assert links.get(link.id).name == "A [2Jd a"


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
def test_one_line(strange: str) -> None:
    """What a notice says is one line without anything that cannot be printed but joiners."""
    line = one_line(f"a{strange}b", 100)
    assert line.replace("\u200d", "").isprintable()
    assert (line[0], line[-1]) == ("a", "b")


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("how", ["%s", "%r", "%(x)s", "error", "exception"])
def test_what_is_logged_is_escaped(how: str, strange: str) -> None:
    """Whatever comes from outside into a log line, as an argument, in an error or in a traceback,
    makes no line of its own and controls no terminal.
    """
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    log = logging.getLogger("imagegate")
    log.addHandler(handler)
    text = f"A{strange}da"
    try:
        if how == "exception":
            try:
                raise ValueError(text)
            except ValueError:
                log.exception("failed")
        elif how == "error":
            log.error("%s", ValueError(text))
        elif how == "%(x)s":
            log.error("a %(x)s b", {"x": text})
        else:
            log.error(f"a {how} b", text)
    finally:
        log.removeHandler(handler)
    said = out.getvalue()
    said.encode("utf-8")
    lines = said.rstrip("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    if how != "exception":
        assert len(lines) == 1


def test_what_is_escaped() -> None:
    """What can be printed stays as it is, and numbers in a message stay numbers."""
    assert escaped("Zoë 日本 \\n ❤\ufe0f") == "Zoë 日本 \\n ❤\ufe0f"
    assert escaped("a\x1b\n\ud800\u202e") == "a\\x1b\\n\\ud800\\u202e"
