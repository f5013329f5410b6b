"""A batch of many frames: its strip, and the small pictures in it."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from imagegate.core.pictures import Picture
from imagegate.pictures.encode import encode_preview, thumb
from tests.support.approver import Studio
from tests.support.browser import chromium

FRAMES = 200


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """Grey frames, each lighter than the one before."""
    return torch.linspace(0, 1, FRAMES).reshape(-1, 1, 1, 1).expand(-1, 48, 64, 3).contiguous()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("size", [(1536, 1024), (300, 1536), (40, 30), (1536, 1)])
def test_a_thumbnail_is_small(mode: str, size: tuple[int, int]) -> None:
    """It is a WebP of at most 256 pixels a side and some 10 kB, of the image's own shape."""
    noise = Image.effect_noise(size, 60).convert(mode)
    made = thumb(encode_preview(noise))
    assert made.media_type == "image/webp"
    assert len(made.body) < 20_000
    with Image.open(io.BytesIO(made.body)) as image:
        assert image.format == "WEBP"
        assert max(image.size) == min(256, max(size))
        assert image.size[0] / image.size[1] == pytest.approx(size[0] / size[1], rel=0.05) or (
            min(image.size) == 1
        )


def test_a_thumbnail_says_nothing_about_its_file() -> None:
    """What a camera wrote into a file is not in its thumbnail."""
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    out = io.BytesIO()
    Image.new("RGB", (300, 300)).save(out, "JPEG", exif=exif, comment=b"secret place")
    assert b"secret" not in thumb(Picture(out.getvalue(), "image/jpeg")).body


def follows(page: Page, number: int) -> None:
    """The strip is at this frame, which is within it."""
    expect(page.locator("#ig-which")).to_have_text(f"{number} / {FRAMES}")
    chosen = page.locator(f"#ig-thumbs button:nth-child({number})")
    expect(chosen).to_have_attribute("aria-selected", "true")
    expect(chosen).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("whose", ["operator", "approver"])
def test_the_strip_follows_the_frame_on_show(
    browser: Browser, frames: torch.Tensor, whose: str
) -> None:
    """Of 200 frames the one on show is always in the strip, with its number, and the strip asks
    for small pictures only of those near it.
    """
    with Studio(browser) as studio:
        studio.publish("Film", image=frames)
        asked: list[str] = []
        page = studio.tab()
        page.on("request", lambda request: asked.append(request.url))
        if whose == "operator":
            studio.operator_page(page)
        else:
            studio.enter("Ada", page)
        follows(page, 1)
        for _ in range(40):
            page.keyboard.press("ArrowRight")
        follows(page, 41)
        page.locator("#ig-thumbs button:nth-child(104)").dispatch_event("click")
        follows(page, 104)
        page.keyboard.press("ArrowLeft")
        follows(page, 103)
        expect(
            page.locator("#ig-thumbs button:nth-child(103)").locator("img, canvas")
        ).to_be_visible()
        thumbs = [url for url in asked if url.endswith("size=thumb")]
        assert any("/image/102?" in url for url in thumbs)
        assert len(thumbs) < FRAMES


def test_a_small_picture_is_kept_by_the_browser(browser: Browser, frames: torch.Tensor) -> None:
    """The operator's browser asks for each once a day; a size that does not exist is refused."""
    with Studio(browser) as studio:
        id_ = studio.publish("Film", image=frames[:2])
        studio.operator_page()
        url = f"{studio.operator_url}api/gates/{id_}/image/1"
        first, second = (httpx.get(f"{url}?size=thumb") for _ in range(2))
        assert (first.status_code, first.headers["content-type"]) == (200, "image/webp")
        assert "immutable" in first.headers["cache-control"]
        assert first.content == second.content
        refused = httpx.get(f"{url}?size=tiny")
        assert refused.status_code == 422
        assert "'thumb', 'preview'" in refused.json()["error"]
