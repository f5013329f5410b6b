"""Between torch and pictures: previews, PNG, masks. The only module here that imports torch.

An *image* is ComfyUI's IMAGE: float ``[B,H,W,C]``, values 0..1, C of 1, 3 or 4. A *mask* is its
MASK: float32 ``[B,H,W]``, 0..1, 1 = painted.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .model import BadPicture, GateClosed
from .pictures import Picture, encode_png, encode_preview, preview_size, read_mask, scale_mask

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def check_image(image: object) -> torch.Tensor:
    """``image`` if it is an IMAGE of at least one pixel.

    Raises:
        ValueError: it is not; the message says what came and what was expected.
    """
    if not isinstance(image, torch.Tensor):
        raise ValueError(f"image is a {type(image).__name__}, not an IMAGE tensor [B,H,W,C]")
    shape = list(image.shape)
    if len(shape) != 4 or shape[-1] not in _MODES or 0 in shape:
        raise ValueError(
            f"image has the shape {shape}; expected [B,H,W,C] with at least one pixel and C of "
            "1, 3 or 4"
        )
    return image


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


def fit_mask(mask: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """A MASK as it was connected, made to fit an image and the whole of its batch.

    Args:
        mask: ``[H,W]``, ``[B,H,W]`` or ``[B,1,H,W]``, of any size; a shorter batch repeats its
            last mask.

    Raises:
        BadPicture: another number of dimensions.
    """
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
        BadPicture: see `imagegate.pictures.read_mask`.
    """
    grey = scale_mask(read_mask(png, width, height), width, height)
    return torch.from_numpy(np.asarray(grey, dtype=np.float32) / 255.0)


class TensorPictures:
    """`imagegate.pictures.Pictures` of an IMAGE, each made when first asked for.

    The preview of the first image is made at once, for the gate is shown with it.
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
