"""Between torch and pictures: previews, PNG, masks. The only module here that imports torch.

An *image* is ComfyUI's IMAGE: ``[B,H,W,C]``, values 0..1, most often float, C of 1, 3 or 4. A
*mask* is its MASK: float32 ``[B,H,W]``, 0..1, 1 = painted.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import threading
import zlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from ..core.model import BadPicture, GateClosed
from ..core.pictures import Picture
from .encode import encode_png, encode_preview, preview_size, read_mask, scale_mask

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_PNG_COLOURS = {1: 0, 3: 2, 4: 6}
_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32",
    "int32": "I32", "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16",
    "float32": "F32", "float64": "F64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
_KINDS = {getattr(torch, name): kind for name, kind in _NAMES.items() if hasattr(torch, name)}
"""The dtypes that an image or a mask may have, all of them kept exactly, by safetensors' names."""


def check_image(image: object) -> torch.Tensor:
    """``image`` if it is an IMAGE of at least one pixel.

    Raises:
        ValueError: it is not; the message says what came and what was expected.
    """
    if not isinstance(image, torch.Tensor):
        raise ValueError(f"image is a {type(image).__name__}, not an IMAGE tensor [B,H,W,C]")
    _check_numbers("image", image)
    shape = list(image.shape)
    if len(shape) != 4 or shape[-1] not in _MODES or 0 in shape:
        raise ValueError(
            f"image has the shape {shape}; expected [B,H,W,C] with at least one pixel and C of "
            "1, 3 or 4"
        )
    return image


def _check_numbers(name: str, tensor: torch.Tensor) -> None:
    """Raises `BadPicture`, a ValueError, for what cannot be shown or kept."""
    if tensor.dtype not in _KINDS:
        known = ", ".join(str(kind).removeprefix("torch.") for kind in _KINDS)
        raise BadPicture(f"{name} is {tensor.dtype}; it can be {known}")
    if tensor.layout is not torch.strided or tensor.is_meta:
        what = "has no values" if tensor.is_meta else f"is {tensor.layout}"
        raise BadPicture(f"{name} {what}; expected a dense tensor")


def preview(image: torch.Tensor, index: int) -> Picture:
    """A preview of one image, scaled down on the tensor's own device."""
    one = image[index : index + 1].permute(0, 3, 1, 2).float()
    _, _, height, width = one.shape
    wide, high = preview_size(width, height)
    if (wide, high) != (width, height):
        one = F.interpolate(one, size=(high, wide), mode="area")
        return encode_preview(_to_pil(one[0].permute(1, 2, 0), own=True))
    return encode_preview(_to_pil(one[0].permute(1, 2, 0)))


def full(image: torch.Tensor, index: int) -> Picture:
    """One image as PNG at its true size, rounded to 8 bits."""
    return encode_png(_to_pil(image[index]))


def fit_mask(mask: object, image: torch.Tensor) -> torch.Tensor:
    """A MASK as it was connected, made to fit an image and the whole of its batch.

    Args:
        mask: ``[H,W]``, ``[B,H,W]`` or ``[B,1,H,W]``, of any size; a shorter batch repeats its
            last mask.

    Raises:
        BadPicture: it is not a tensor, or has a wrong dtype or number of dimensions.
    """
    if not isinstance(mask, torch.Tensor):
        raise BadPicture(f"mask is a {type(mask).__name__}, not a MASK tensor [B,H,W]")
    _check_numbers("mask", mask)
    mask = mask.detach()
    batch, height, width, _ = image.shape
    if mask.dim() == 2:
        mask = mask[None]
    if mask.dim() == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.dim() != 3 or 0 in mask.shape:
        raise BadPicture(f"mask has the shape {list(mask.shape)}; expected [B,H,W]")
    mask = torch.nan_to_num(mask.float(), nan=0.0, posinf=1.0, neginf=0.0).clamp(0, 1)
    if mask.shape[1:] != (height, width):
        mask = F.interpolate(mask[:, None], size=(height, width), mode="bilinear")[:, 0]
    if len(mask) < batch:
        mask = torch.cat([mask, mask[-1:].expand(batch - len(mask), -1, -1)])
    return mask[:batch]


def empty_mask(image: torch.Tensor) -> torch.Tensor:
    """Zeros ``[B,H,W]`` for an image, on the CPU as ComfyUI's own masks are."""
    return torch.zeros(image.shape[:3], dtype=torch.float32)


def mask_from_png(png: bytes, width: int, height: int) -> torch.Tensor:
    """A painted mask ``[H,W]`` at the image's true size.

    Raises:
        BadPicture: see `imagegate.pictures.encode.read_mask`.
    """
    grey = scale_mask(read_mask(png, width, height), width, height)
    return torch.from_numpy(np.asarray(grey, dtype=np.float32) / 255.0)


def encode_exact(image: torch.Tensor) -> tuple[str, bytes]:
    """One image ``[H,W,C]`` so that `decode_exact` gives the same bits and dtype back.

    Returns:
        A suffix and the file's content: ``png`` where each value is what an 8-bit picture is loaded
        as (float32, exactly k/255), else ``safetensors`` in the image's own dtype.

    Raises:
        BadPicture: a dtype that cannot be kept.
    """
    image = image.detach().cpu()
    png = _exact_png(image) if image.dtype == torch.float32 else None
    return ("png", png) if png is not None else ("safetensors", _safetensors("image", image))


def needs_torch(image: torch.Tensor) -> bool:
    """Whether only torch can show the exact file of an image: numpy has no floats of 8 bits."""
    return image.dtype.is_floating_point and image.element_size() == 1


def decode_exact(suffix: str, body: bytes) -> torch.Tensor:
    """The image ``[H,W,C]`` that `encode_exact` was given, on the CPU.

    Raises:
        BadPicture: the content is broken.
    """
    if suffix != "png":
        return _from_safetensors("image", body)
    try:
        # Not `Image.open`, which takes large images for an attack. Loading alone checks no sums.
        with PngImageFile(io.BytesIO(body)) as file:
            file.verify()
        with PngImageFile(io.BytesIO(body)) as file:
            pixels = np.array(file)
            if file.mode not in _MODES.values() or pixels.dtype != np.uint8:
                raise ValueError(f"its mode is {file.mode}")
    except Exception as error:  # Pillow raises nearly anything on a broken file
        raise BadPicture(f"the stored image is broken: {error}") from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).float() / 255.0


def encode_mask(mask: torch.Tensor) -> bytes:
    """A MASK ``[B,H,W]`` as the content of a safetensors file, float32."""
    return _safetensors("mask", mask.detach().cpu().float())


def decode_mask(body: bytes) -> torch.Tensor:
    """The MASK that `encode_mask` was given, bit for bit.

    Raises:
        BadPicture: the content is broken.
    """
    return _from_safetensors("mask", body)


def digest(image: torch.Tensor) -> str:
    """A digest that two tensors share only if they have the same dtype, shape and bits."""
    # Where the processor knows SHA-256, as most do by now, nothing strong is faster.
    found = hashlib.sha256(f"{image.dtype} {list(image.shape)}\n".encode())
    found.update(_bytes(image.detach().cpu()))
    return found.hexdigest()


class TensorPictures:
    """The `imagegate.core.pictures.Pictures` of an IMAGE, each made when it is first asked for.

    The preview of the first image is made at once, because the gate is shown with it.
    """

    def __init__(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        self._image: torch.Tensor | None = image
        self._mask = mask
        self._lock = threading.Lock()  # guards _previews, which grow only until `release`
        self._previews = {0: preview(image, 0)}

    def preview(self, index: int) -> Picture:
        with self._lock:
            made = self._previews.get(index)
        if made is None:
            made = preview(self._tensor(), index)
            with self._lock:
                if self._image is not None:
                    self._previews[index] = made
        return made

    def full(self, index: int) -> Picture:
        return full(self._tensor(), index)

    def start_mask(self, index: int) -> bytes | None:
        mask = self._mask
        if mask is None or not bool(mask[index].any()):
            return None
        return encode_png(_to_pil(mask[index][..., None])).body

    def release(self) -> None:
        """Let the tensors go, and with them all previews but the first: batches can be large."""
        with self._lock:
            self._image = self._mask = None
            self._previews = {0: self._previews[0]}

    def _tensor(self) -> torch.Tensor:
        image = self._image
        if image is None:
            raise GateClosed("the gate has ended; only its first preview is still kept")
        return image


def _to_pil(image: torch.Tensor, own: bool = False) -> Image.Image:
    """``[H,W,C]`` as 8-bit pixels. ``own``: nobody else has the tensor, it may be changed."""
    image = image.float() if own else image.float().clone()
    image = image.nan_to_num_(nan=0.0, posinf=1.0, neginf=0.0)
    pixels = image.clamp_(0, 1).mul_(255).round_().to(torch.uint8).cpu().contiguous().numpy()
    mode = _MODES[pixels.shape[-1]]
    return Image.fromarray(pixels[..., 0] if mode == "L" else pixels)


def _exact_png(image: torch.Tensor) -> bytes | None:
    """A float32 image as PNG if that keeps every bit, else None.

    Written here rather than by Pillow, which takes four times as long: it tries all filters on each
    row, while "up" alone makes photographs as small.
    """
    height, width, channels = image.shape
    # Most images that are not exact differ everywhere: a few rows show that, without compressing.
    if _exact_pixels(image[:: max(1, height // 8)]) is None:
        return None
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    head = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOURS[channels], 0, 0, 0)
    chunks = [b"\x89PNG\r\n\x1a\n", *_chunk(b"IHDR", head)]
    band = max(1, 2**20 // (width * channels))
    above = np.zeros(width * channels, np.uint8)
    for top in range(0, height, band):
        pixels = _exact_pixels(image[top : top + band])
        if pixels is None:
            return None
        rows = pixels.reshape(len(pixels), -1)
        filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
        filtered[:, 0] = 2  # each row is stored as its difference from the one above
        np.subtract(rows[0], above, out=filtered[0, 1:])
        np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
        above = rows[-1]
        chunks += _chunk(b"IDAT", packer.compress(filtered.data))
    chunks += [*_chunk(b"IDAT", packer.flush()), *_chunk(b"IEND", b"")]
    return b"".join(chunks)


def _exact_pixels(image: torch.Tensor) -> np.ndarray[Any, Any] | None:
    """8-bit pixels that load as exactly the same bits; None if there are none."""
    pixels = (image * 255).round_().clamp_(0, 255).to(torch.uint8)
    # Bits, since -0.0 == 0.0 and NaN is not even itself.
    loaded = (pixels.float() / 255.0).contiguous().view(torch.int32)
    if not torch.equal(loaded, image.contiguous().view(torch.int32)):
        return None
    return pixels.contiguous().numpy()


def _chunk(kind: bytes, body: bytes) -> tuple[bytes, bytes, bytes]:
    crc = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind, body, struct.pack(">I", crc)


def _safetensors(name: str, tensor: torch.Tensor) -> bytes:
    """A file with this one tensor. safetensors' own writer copies the tensor twice more."""
    _check_numbers(name, tensor)
    kind = _KINDS[tensor.dtype]
    content = _bytes(tensor)
    entry = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [0, content.nbytes]}
    head = json.dumps({name: entry}).encode()
    head += b" " * (-len(head) % 8)  # safetensors wants the numbers aligned
    return b"".join([struct.pack("<Q", len(head)), head, content])


def _from_safetensors(name: str, body: bytes) -> torch.Tensor:
    from safetensors.torch import load

    try:
        tensor = load(body)[name]
        if tensor.dim() != 3 or tensor.dtype not in _KINDS:
            raise ValueError(f"it is {tensor.dtype} {list(tensor.shape)}")
    except Exception as error:  # safetensors' own, KeyError, ValueError
        raise BadPicture(f"the stored {name} is broken: {error}") from error
    return tensor


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The numbers of a CPU tensor in order; no copy if they lie in order already."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
