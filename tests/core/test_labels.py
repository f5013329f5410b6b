"""Labels as they are written, seen and said."""

from __future__ import annotations

import json

import pytest

from imagegate.core.model import Gate, parse_labels
from imagegate.storage.rules import signed
from imagegate.text.labels import shows, split_labels, told_apart, visible
from tests.support.javascript import javascript

WRITTEN = [
    ("", [""]),
    ("keep, fix", ["keep", "fix"]),
    ('keep, "fix, then upscale", reject', ["keep", "fix, then upscale", "reject"]),
    ('"a,b"\n"c,d"', ["a,b", "c,d"]),
    ('"say ""no""", b', ['say "no"', "b"]),
    ('12" print, keep', ['12" print', "keep"]),
    ('"open, b', ['"open', "b"]),
    ('"a" b, c', ['"a" b', "c"]),
    ('"a\nb"', ['"a', 'b"']),
    ('"", b', ["", "b"]),
    (" \t\"a, b\" \r\nc", ["a, b", "c"]),
    ("a,", ["a", ""]),
    ("a\n\nb", ["a", "", "b"]),
]  # fmt: skip

NOTHING = ["\u200b", "\u2060\ufeff", "\u3164", "\u115f\u1160", "\uffa0", "\u2800\u2800", "\u0301",
           "\u202e", "\u00ad", "\u3000", "\x07", "\ufe0f\u200d", "\U000e0041"]  # fmt: skip


@pytest.mark.parametrize(("text", "labels"), WRITTEN)
def test_a_comma_inside_a_label_is_written_in_quotes(text: str, labels: list[str]) -> None:
    """Commas and line breaks separate labels, but not a comma in double quotes; quotes that are
    not around a whole label are part of it.
    """
    assert split_labels(text) == labels


@pytest.mark.parametrize("nothing", NOTHING)
def test_a_label_that_shows_nothing_is_its_number(nothing: str) -> None:
    """Spaces, marks, fillers and format characters alone are no label, wherever it comes from."""
    assert not shows(nothing)
    assert parse_labels(f"a, {nothing}", 2) == ("a", "2")
    assert Gate(labels=(nothing, "b"), width=1, height=1).labels == ("1", "b")
    assert signed(nothing, nothing) == ("", "")


@pytest.mark.parametrize("text", ["a", "é", "🗑", "👩‍🚀", "ج", "한", "-", "\u200bx"])
def test_what_can_be_seen_is_a_label(text: str) -> None:
    """A letter, sign or emoji of any script is a label, also beside what shows nothing."""
    assert shows(text)
    assert parse_labels(text, 1) == (text,)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("keep", "fix"), ["keep", "fix"]),
        (("fix", "fix", "x"), ["1 · fix", "2 · fix", "x"]),
        (("fix", "f\u200bix"), ["1 · fix", "2 · f\u200bix"]),
        (("é", "e\u0301"), ["1 · é", "2 · e\u0301"]),
        (("a b", "a\u00a0 b"), ["1 · a b", "2 · a\u00a0 b"]),
        (("2", "x"), ["1 · 2", "x"]),
        (("1", "2"), ["1", "2"]),
        (("3", "x"), ["3", "x"]),
    ],
)
def test_labels_that_look_alike_are_told_apart(labels: tuple[str, ...], said: list[str]) -> None:
    """A label that looks like another one, or like another's number, is said with its number."""
    assert [told_apart(labels, route) for route in range(1, len(labels) + 1)] == said
    assert Gate(labels=labels, width=1, height=1).said(None) == "stop"


def test_what_looks_the_same_is_the_same() -> None:
    """Invisible characters, kinds of spaces and composition make no difference to see."""
    assert visible(" a\u200b\u3000b\u202e ") == "a b"


def test_the_node_splits_labels_in_the_same_way() -> None:
    """ComfyUI's page splits labels as the server does, and writes them so that they come back."""
    texts = [text for text, _ in WRITTEN]
    split, back = javascript(
        'const { joinLabels, splitLabels } = await import(here + "web/labels.js");'
        f"const split = {json.dumps(texts)}.map(splitLabels);"
        "console.log(JSON.stringify([split, split.map((one) => splitLabels(joinLabels(one)))]));"
    )
    assert split == [labels for _, labels in WRITTEN]
    assert back == split


def test_the_pages_tell_labels_apart_in_the_same_way() -> None:
    """The page's own rules for labels give what these give."""
    groups = [["fix", "fix", "x"], ["fix", "f\u200bix"], ["é", "e\u0301"], ["2", "x"], ["3", "x"],
              ["a b", "a\u00a0 b"], ["\u3164a", "a"]]  # fmt: skip
    said, shown, letter = javascript(
        'const { toldApart, shows } = await import(here + "page/shared/labels.js");'
        f"const groups = {json.dumps(groups)}, nothing = {json.dumps(NOTHING)};"
        "console.log(JSON.stringify([groups.map((labels) => labels.map((_, i) =>"
        " toldApart(labels, i + 1))), nothing.map(shows), shows('a')]));"
    )
    assert said == [
        [told_apart(labels, route) for route in range(1, len(labels) + 1)] for labels in groups
    ]
    assert not any(shown)
    assert letter


def test_what_is_said_of_a_gate_out_of_sight_of_it_keeps_its_direction() -> None:
    """Titles and labels of a toast and of a browser's notification turn nothing around, and labels
    with a slash or a comma in them are told apart.
    """
    toast, notice = javascript(
        "globalThis.matchMedia = () => ({}); globalThis.document = { getElementById: () => null };"
        'const { about } = await import(here + "web/labels.js");'
        'const { newsText } = await import(here + "page/shared/alerts.js");'
        'const gate = { title: "\\u202egpj.exe", labels: ["a / b", "c, d", "\\u05e9"] };'
        "console.log(JSON.stringify([about(gate), newsText(3, gate.title)]));"
    )
    title = "\u2068gpj.exe\u2069"
    assert toast == f"{title} · “\u2068a / b\u2069”, “\u2068c, d\u2069”, “\u2068\u05e9\u2069”"
    assert notice == f"{title} · 3 waiting"
