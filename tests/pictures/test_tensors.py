"""Between tensors and pictures."""

from __future__ import annotations

import io
import math
import random
import threading
from contextlib import suppress

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from imagegate.comfy.outputs import mask_from_stash
from imagegate.core.model import BadPicture, GateClosed
from imagegate.core.pictures import Picture
from imagegate.pictures import tensors
from imagegate.pictures.tensors import (
    TensorPictures,
    decode_exact,
    decode_mask,
    digest,
    encode_exact,
    encode_mask,
    fit_mask,
    full,
    mask_from_png,
    preview,
)
from tests.support.stored import PATIENCE


def opened(picture: Picture) -> Image.Image:
    return Image.open(io.BytesIO(picture.body))


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (1, 1, (1, 1)),
        (48, 64, (64, 48)),
        (1536, 10, (10, 1536)),
        (1537, 10, (10, 1536)),
        (3072, 4096, (1536, 1152)),
        (1, 4096, (1536, 1)),
        (4096, 3, (1, 1536)),
    ],
)
def test_a_preview_fits(height: int, width: int, size: tuple[int, int]) -> None:
    """A preview has the image's shape, and is at most 1536 pixels on its longest side."""
    assert opened(preview(torch.zeros(1, height, width, 3), 0)).size == size


@pytest.mark.parametrize(
    ("channels", "kind", "mode"), [(1, "JPEG", "L"), (3, "JPEG", "RGB"), (4, "WEBP", "RGBA")]
)
@pytest.mark.parametrize("side", [16, 2000])
def test_a_preview_is_jpeg_or_webp(channels: int, kind: str, mode: str, side: int) -> None:
    """A preview is a JPEG, or a WebP where there is transparency, and shows the right colours."""
    image = torch.zeros(2, side, 8, channels)
    image[1] = torch.tensor([0.2, 0.4, 0.6, 0.5])[:channels]
    picture = preview(image, 1)
    shown = opened(picture)
    assert (shown.format, shown.mode) == (kind, mode)
    assert picture.media_type == f"image/{kind.lower()}"
    pixel = np.atleast_1d(np.asarray(shown)[shown.height // 2, 0])[:3]
    assert np.abs(pixel - np.array([51, 102, 153])[: len(pixel)]).max() <= 4


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_full_image_is_exact(channels: int) -> None:
    """The full PNG has each 8-bit value bit for bit, at the true size."""
    values = torch.arange(256).repeat(channels).reshape(channels, 16, 16).permute(1, 2, 0)
    image = (values.float() / 255)[None]
    shown = opened(full(image, 0))
    assert shown.format == "PNG"
    assert np.array_equal(np.asarray(shown).reshape(16, 16, channels), values.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_types(dtype: torch.dtype) -> None:
    """Images in half or double precision can be shown."""
    image = torch.ones(1, 2000, 4, 3, dtype=dtype)
    assert opened(preview(image, 0)).size == (3, 1536)
    assert np.asarray(opened(full(image, 0))).min() == 255


def test_wild_values_are_shown_as_black_and_white() -> None:
    """NaN and minus infinity are black, infinity and what is above 1 white; the image stays."""
    image = torch.tensor([math.nan, math.inf, -math.inf, -3.0, 7.0, 0.5]).reshape(1, 1, 6, 1)
    before = image.clone()
    assert np.asarray(opened(full(image, 0))).tolist() == [[0, 255, 0, 0, 255, 128]]
    assert preview(image, 0).body
    assert torch.equal(image.nan_to_num(9), before.nan_to_num(9))


def test_an_image_that_is_a_view() -> None:
    """An image whose memory is not in order is shown as it is."""
    image = torch.rand(1, 3, 6, 8).permute(0, 2, 3, 1)
    expected = (image[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(np.asarray(opened(full(image, 0))), expected)


def test_the_first_preview_is_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first image's preview is made at once, others when asked for, each only once."""
    made: list[int] = []
    monkeypatch.setattr(tensors, "preview", lambda _, i: made.append(i) or Picture(b"x", "y"))
    pictures = TensorPictures(torch.zeros(3, 2, 2, 3))
    assert made == [0]
    for index in (0, 2, 2, 0):
        pictures.preview(index)
    assert made == [0, 2]


def test_released_pictures() -> None:
    """Once released the first preview is still shown, and all else is gone and says so."""
    pictures = TensorPictures(torch.zeros(3, 2, 2, 3), torch.ones(3, 2, 2))
    pictures.preview(1)
    pictures.release()
    assert pictures.preview(0).body
    for gone in (lambda: pictures.preview(1), lambda: pictures.full(0)):
        with pytest.raises(GateClosed):
            gone()
    assert pictures.start_mask(0) is None


def test_a_preview_that_comes_after_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preview that was being made while the pictures were released is shown, but not kept."""
    pictures = TensorPictures(torch.zeros(2, 2, 2, 3))

    def late(_: torch.Tensor, index: int) -> Picture:
        pictures.release()
        return Picture(b"x", "y")

    monkeypatch.setattr(tensors, "preview", late)
    assert pictures.preview(1).body == b"x"
    with pytest.raises(GateClosed):
        pictures.preview(1)


def test_pictures_from_many_threads() -> None:
    """Pictures can be asked for by many threads at the same time."""
    pictures = TensorPictures(torch.rand(8, 16, 16, 3))
    barrier = threading.Barrier(8)
    bodies: list[bytes] = []

    def ask() -> None:
        barrier.wait(PATIENCE)
        bodies.extend(pictures.preview(index).body for index in range(8))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(bodies) == 64
    assert len(set(bodies)) == 8


def test_a_start_mask() -> None:
    """The mask that painting starts from is an exact PNG; an empty one is none."""
    mask = torch.zeros(2, 6, 8)
    mask[1, 2, 3] = 1
    pictures = TensorPictures(torch.zeros(2, 6, 8, 3), mask)
    assert pictures.start_mask(0) is None
    png = pictures.start_mask(1)
    assert png is not None
    assert torch.equal(mask_from_png(png, 8, 6), mask[1])


def test_a_mask_keeps_every_level() -> None:
    """All 256 levels of a painted mask come through mask_from_stash exactly."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    out = io.BytesIO()
    Image.fromarray(levels).save(out, "PNG")
    mask = mask_from_stash(out.getvalue(), torch.zeros(2, 16, 16, 3))
    assert mask.dtype == torch.float32
    assert torch.equal(
        (mask * 255).round().to(torch.uint8), torch.from_numpy(levels).expand(2, -1, -1)
    )
    assert (mask.min().item(), mask.max().item()) == (0, 1)


@pytest.mark.parametrize("png", [b"no", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_a_broken_mask_is_refused(png: bytes) -> None:
    """What is no PNG is refused."""
    with pytest.raises(BadPicture):
        mask_from_stash(png, torch.zeros(1, 4, 4, 3))


def test_a_mask_input_with_wild_values_fits() -> None:
    """A mask input is brought to 0..1, NaN to 0, and a shorter batch repeats its last mask."""
    mask = torch.tensor([[[math.nan, 2.0], [-1.0, math.inf]], [[0.25, 0.5], [0.75, 1.0]]])
    fitted = fit_mask(mask, torch.zeros(3, 2, 2, 3))
    assert fitted[0].tolist() == [[0, 1], [0, 1]]
    assert torch.equal(fitted[1], mask[1])
    assert torch.equal(fitted[2], mask[1])


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    """All that makes a tensor what it is."""
    content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return tensor.dtype, tensor.shape, content


def loaded(height: int, width: int, channels: int, seed: int = 0) -> torch.Tensor:
    """``[H,W,C]`` as ComfyUI's LoadImage makes it of an 8-bit picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return torch.from_numpy(pixels.astype(np.float32) / 255.0)


def wild(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Any bits at all: NaN with its payload, infinities, denormals, -0.0."""
    size = math.prod(shape) * dtype.itemsize
    content = bytearray(random.Random(seed).randbytes(size))
    return torch.frombuffer(content, dtype=dtype).reshape(shape)


KEPT = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8]
SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3, 4]))


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(KEPT), SHAPES, st.integers(0, 2**32), st.booleans())
def test_any_bits_are_kept(
    dtype: torch.dtype, shape: tuple[int, int, int], seed: int, turned: bool
) -> None:
    """An image of any dtype, shape and order in memory comes back bit for bit."""
    image = wild(dtype, shape, seed)
    if turned:
        image = image.transpose(0, 1)
    with torch.inference_mode():
        suffix, body = encode_exact(image)
        assert bits(decode_exact(suffix, body)) == bits(image)


@settings(deadline=None, max_examples=200)
@given(SHAPES, st.integers(0, 2**32), st.booleans(), st.data())
def test_an_8_bit_image_is_kept_as_png(
    shape: tuple[int, int, int], seed: int, turned: bool, data: st.DataObject
) -> None:
    """What LoadImage made of a picture is a PNG, which Pillow reads as just that picture; one
    value that is off by a bit makes it safetensors, and both come back bit for bit.
    """
    image = loaded(*shape, seed)
    if turned:
        image = image.transpose(0, 1)
    suffix, body = encode_exact(image)
    assert suffix == "png"
    assert bits(decode_exact(suffix, body)) == bits(image)
    pixels = np.asarray(Image.open(io.BytesIO(body))).reshape(image.shape)
    assert np.array_equal(pixels, (image * 255).round().to(torch.uint8).numpy())

    off = image.contiguous().clone()
    flat = off.view(torch.int32).reshape(-1)
    flat[data.draw(st.integers(0, flat.numel() - 1))] ^= 1 << data.draw(st.integers(0, 30))
    suffix, body = encode_exact(off)
    assert bits(decode_exact(suffix, body)) == bits(off)
    assert (suffix == "png") is bool((off.view(torch.int32) == _nearest(off)).all())


def _nearest(image: torch.Tensor) -> torch.Tensor:
    level = (image.double().nan_to_num(0, 0, 0).clamp(0, 1) * 255).round()
    return (level.float() / 255).view(torch.int32)


@pytest.mark.parametrize("value", [-0.0, 1e-45, math.nan, math.inf, -math.inf, 1.0000001, -1, 256])
def test_a_single_odd_value_is_kept(value: float) -> None:
    """One value in a large image that no 8-bit picture has is found, and kept."""
    image = loaded(700, 900, 3)
    image[641, 17, 2] = value
    suffix, body = encode_exact(image)
    assert suffix == "safetensors"
    assert bits(decode_exact(suffix, body)) == bits(image)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_large_8_bit_image_is_kept(channels: int) -> None:
    """An image of many bands, whose last is not full, is one sound PNG."""
    image = loaded(1201, 1003, channels)
    suffix, body = encode_exact(image)
    assert suffix == "png"
    assert bits(decode_exact(suffix, body)) == bits(image)


def test_an_image_larger_than_pillow_trusts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image so large that Pillow would take it for an attack comes back."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    image = loaded(16, 16, 3)
    suffix, body = encode_exact(image)
    assert bits(decode_exact(suffix, body)) == bits(image)


def test_a_kept_image_is_plain_safetensors() -> None:
    """Both files are what safetensors itself reads, and the tensors may be written to."""
    image = torch.rand(5, 7, 3)
    _, body = encode_exact(image)
    assert torch.equal(safetensors.torch.load(body)["image"], image)
    mask = torch.rand(2, 5, 7)
    assert torch.equal(safetensors.torch.load(encode_mask(mask))["mask"], mask)
    decode_exact("safetensors", body).add_(1)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_what_is_no_image_is_not_kept(dtype: torch.dtype) -> None:
    """A dtype that no image has is refused by its name."""
    with pytest.raises(BadPicture, match=str(dtype)):
        encode_exact(torch.zeros(2, 2, 3, dtype=dtype))


@settings(deadline=None, max_examples=50)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(0, 2**32))
@example((1, 1, 1), 0)
def test_a_mask_is_kept(shape: tuple[int, int, int], seed: int) -> None:
    """A mask comes back bit for bit."""
    mask = wild(torch.float32, shape, seed)
    assert bits(decode_mask(encode_mask(mask))) == bits(mask)


def test_a_broken_png_is_noticed() -> None:
    """A stored PNG that is cut anywhere, or in which any bit is wrong, gives no other image."""
    image = loaded(6, 5, 3)
    _, body = encode_exact(image)
    for end in range(len(body) - 12):  # the last twelve bytes only say that it ends
        with pytest.raises(BadPicture):
            decode_exact("png", body[:end])
    for at in range(len(body)):
        broken = bytearray(body)
        broken[at] ^= 1 << at % 8
        with suppress(BadPicture):
            assert bits(decode_exact("png", bytes(broken))) == bits(image)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no",
        b"\xff" * 40,
        encode_mask(torch.zeros(1, 2, 3)),
        encode_exact(torch.rand(4, 4, 3))[1][:-1],
        safetensors.torch.save({"image": torch.zeros(2)}),
        safetensors.torch.save({"image": torch.zeros(2, 2, 3, dtype=torch.complex64)}),
    ],
)
def test_broken_safetensors_are_noticed(body: bytes) -> None:
    """What is cut, or is not an image, is refused."""
    with pytest.raises(BadPicture):
        decode_exact("safetensors", body)


@pytest.mark.parametrize(
    "body",
    [b"", b"no", encode_exact(torch.rand(4, 4, 3))[1], encode_mask(torch.ones(1, 2, 3))[:-1]],
)
def test_a_broken_stored_mask_is_noticed(body: bytes) -> None:
    """What is cut, or is not a mask, is refused."""
    with pytest.raises(BadPicture):
        decode_mask(body)


def test_a_digest_tells_tensors_apart() -> None:
    """The digest depends on bits, shape and dtype, and not on the order in memory."""
    image = torch.rand(2, 6, 6, 3)
    assert digest(image) == digest(image.clone())
    assert digest(image) == digest(image.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0))
    others = [
        image.transpose(1, 2),
        image.reshape(2, 4, 9, 3),
        image.view(torch.int32),
        image.double(),
        image[:1],
        image * -1,
    ]
    assert len({digest(each) for each in [image, *others]}) == 7
    assert digest(torch.zeros(1)) != digest(-torch.zeros(1))
    with torch.inference_mode():
        assert digest(image * 1) == digest(image)
