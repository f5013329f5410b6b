"""Modules of the pages that need no page: when a press counts, and which sentence is on show."""

from __future__ import annotations

from typing import Any

from tests.support.javascript import javascript


def pause(script: str) -> Any:
    return javascript(
        'const { Pause } = await import(here + "page/shared/pause.js");'
        "const pause = new Pause(), out = [];"
        "const press = (at, click = false, answer = 1) => out.push(pause.press(at, click, answer));"
        f"{script}; console.log(JSON.stringify(out));"
    )


def test_a_key_meant_for_the_image_that_went_decides_nothing() -> None:
    """After a change that others caused, the first press acknowledges, and the next counts."""
    for gap in (1, 50, 250, 400, 990):
        assert pause(
            f"pause.changed(false, 5000); pause.visible(5020);"
            f"press({5000 + gap}); press({5000 + gap + 30}); press({5000 + gap + 300});"
        ) == ["acknowledges", "early", "counts"]


def test_a_press_from_before_the_change_is_not_an_acknowledgement() -> None:
    """A key that was pressed before the change, and is heard of after it, does nothing."""
    assert pause(
        "pause.changed(false, 5000); pause.visible(5020); press(4990); press(5300); press(5600);"
    ) == ["early", "acknowledges", "counts"]


def test_after_a_second_of_rest_everything_counts() -> None:
    """Who looks for a second needs to acknowledge nothing; typing prolongs that second."""
    assert pause("pause.changed(false, 5000); pause.visible(5020); press(6000);") == ["counts"]
    assert pause(
        "pause.changed(false, 5000); pause.visible(5020);"
        "pause.typed(5500); pause.typed(6200); press(7100); press(7500);"
    ) == ["acknowledges", "counts"]


def test_own_keys_count_as_soon_as_the_image_is_seen() -> None:
    """After a change of one's own a key counts once the image was visible, and not before."""
    assert pause(
        "pause.changed(true, 5000); pause.began(4990); press(5080); pause.visible(5100);"
        "press(5200);"
        "pause.changed(true, 5201); pause.began(5200); pause.visible(5220); press(5300);"
    ) == ["early", "counts", "counts"]


def test_the_second_click_of_a_double_click_does_not_count() -> None:
    """Clicks count from 200 ms after the one before, however busy the page was meanwhile."""
    assert pause(
        "pause.changed(true, 5100); pause.began(5000); pause.visible(5110);"
        "press(5190, true); press(5400, true);"
    ) == ["early", "counts"]


def test_an_image_that_is_not_shown_is_asked_about() -> None:
    """Without an image a route asks once more; who goes on in their rhythm confirms nothing."""
    assert pause("pause.changed(true, 5000); pause.failed(); press(5500); press(6200);") == [
        "unseen", "counts",
    ]  # fmt: skip
    assert (
        pause("pause.changed(true, 5000); for (let i = 1; i < 9; i++) press(5000 + 250 * i);")
        == ["early"] * 3 + ["unseen"] * 5
    )
    assert pause(
        "pause.changed(true, 5000); pause.failed(); press(5500, true, 1); press(6200, true, 2);"
        "pause.visible(6300); press(7000, true, 2);"
    ) == ["unseen", "unseen", "counts"]


# -- the sentence


def line(script: str) -> Any:
    """What was shown, in this order; `time(ms)` lets ticks of the clock pass."""
    return javascript(
        'const { StatusLine } = await import(here + "page/shared/status.js");'
        "const out = [], ticks = new Set();"
        "globalThis.clearInterval = (tick) => ticks.delete(tick);"
        "const every = (act) => { ticks.add(act); return act; };"
        "const time = (ms) => { for (; ms > 0; ms -= 100) [...ticks].forEach((tick) => tick()); };"
        "const status = new StatusLine(({ text }) => out.push(text), every);"
        "const bad = (text, about) => status.say({ text, tone: 'bad', about });"
        "const good = (text, about) => status.say({ text, tone: 'good', about });"
        "const busy = (text, about) => status.say({ text, tone: 'busy', about });"
        f"{script}; console.log(JSON.stringify(out));"
    )


def test_what_must_be_read_stands_for_its_time() -> None:
    """A hint that comes after a warning is shown after it, and of several the last."""
    assert line(
        "busy('Opening'); bad('Save first'); status.say({ text: 'Paint' }); time(3900);"
        "status.say({ text: 'Paint now' }); out.push('-'); time(100);"
    ) == ["Opening", "Save first", "-", "Paint now"]


def test_warnings_are_shown_one_after_the_other() -> None:
    """No warning takes the place of another that has not been read; the same one is said once."""
    assert line(
        "bad('one'); bad('two'); bad('two'); bad('one'); time(1700); out.push('-'); time(9000)"
    ) == ["one", "-", "two"]


def test_the_newest_about_the_same_takes_its_place() -> None:
    """That a mask was not saved is not said any longer once it was."""
    assert line(
        "bad('Not saved', 'mask'); good('Recorded'); good('Saved', 'mask'); time(9000)"
    ) == ["Not saved", "Saved"]


def test_ordinary_messages_follow_at_once() -> None:
    """What is under way and what was done is replaced by whatever comes next."""
    assert line("busy('Sending'); good('Recorded'); busy('Loading'); bad('Lost')") == [
        "Sending", "Recorded", "Loading", "Lost",
    ]  # fmt: skip
