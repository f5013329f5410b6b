"""Which files are images, and which package reads each kind. Nothing is opened with Pillow here.

A file is known by its first bytes, whatever it is called; by its name only where those say
nothing. Files that are not images at all (text, JSON, sidecars of photo programs) are not listed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

HEAD = 64
"""Bytes at the start of a file by which its kind is known."""


class CannotRead(Exception):
    """A file that is not shown; the message is the reason, for a person."""


@dataclass(frozen=True)
class Kind:
    """A kind of file that Pillow alone does not read.

    Attributes:
        name: what people call it.
        package: the package that reads it once installed; empty if Image Gate has no reader for it.
        instead: what to do where no package helps.
    """

    name: str
    package: str = ""
    instead: str = ""

    def why_not(self) -> str:
        """Why such a file is not shown, while its package is missing."""
        if self.package:
            return f"{self.name} needs a package: pip install {self.package}"
        return f"{self.name}: {self.instead}"


_EXPORT = "not read; export it as PNG, JPEG or TIFF"
_VIDEO = Kind("a video", instead="only still images are shown")
HEIC = Kind("HEIC", "pillow-heif")
AVIF = Kind("AVIF", '"Pillow>=11.3"')
JPEG_XL = Kind("JPEG XL", "pillow-jxl-plugin")
RAW = Kind("camera RAW", "rawpy")
EXR = Kind("OpenEXR", "OpenEXR")
WEBP = Kind("WebP", instead="this Pillow was built without WebP")
JPEG_2000 = Kind("JPEG 2000", instead="this Pillow was built without JPEG 2000")

_SUFFIXES: dict[Kind, str] = {
    HEIC: "heic heif hif heics heifs",
    AVIF: "avif avifs",
    WEBP: "webp",
    JPEG_2000: "jp2 j2k jpc jpf jpx j2c",
    JPEG_XL: "jxl",
    RAW: "3fr arw cr2 cr3 crw dcr dng erf fff gpr iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 "
    "rwl sr2 srf srw x3f",
    EXR: "exr",
    Kind("Radiance HDR", instead="not read; convert it to OpenEXR or TIFF"): "hdr",
    Kind("SVG", instead="a drawing without pixels; export it as PNG"): "svg svgz",
    Kind("PDF", instead="a document; export its pages as PNG or TIFF"): "pdf",
    Kind("PostScript", instead="a drawing without pixels; export it as PNG"): "ai eps ps",
    Kind("Windows metafile", instead="a drawing without pixels; export it as PNG"): "emf wmf",
    Kind("GIMP", instead=_EXPORT): "xcf",
    Kind("Krita", instead=_EXPORT): "kra",
    Kind("OpenRaster", instead=_EXPORT): "ora",
    Kind("Clip Studio", instead=_EXPORT): "clip",
    Kind("Affinity", instead=_EXPORT): "afphoto",
    Kind("large Photoshop document", instead=_EXPORT): "psb",
    Kind("JPEG XR", instead=_EXPORT): "hdp jxr wdp",
    Kind("DICOM", instead=_EXPORT): "dcm dicom",
    _VIDEO: "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts webm wmv",
}
_BY_SUFFIX = {f".{suffix}": kind for kind, text in _SUFFIXES.items() for suffix in text.split()}

SURE = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PSD", "QOI", "DDS",
        "HEIF", "JXL")  # fmt: skip
"""Pillow's formats whose first bytes are unmistakable: tried whatever a file is called."""
_BY_NAME: dict[str, str] = {
    "CUR": "cur",
    "DCX": "dcx",
    "DIB": "dib",
    "FITS": "fit fits",
    "FLI": "fli flc",
    "ICNS": "icns",
    "ICO": "ico",
    "JPEG": "jpe jfif",
    "MPO": "mpo",
    "PCD": "pcd",
    "PCX": "pcx",
    "PNG": "apng",
    "PPM": "pbm pfm pgm pnm ppm",
    "SGI": "bw rgb rgba sgi",
    "SUN": "ras",
    "TGA": "icb tga vda vst",
    "XBM": "xbm",
    "XPM": "xpm",
}
_PILLOW = {f".{suffix}": name for name, text in _BY_NAME.items() for suffix in text.split()}
_COMMON = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".psd",
    ".qoi",
    ".dds",
)
_LISTED = frozenset({*_COMMON, *_PILLOW, *_BY_SUFFIX})

_MAGIC: tuple[tuple[int, bytes, Kind | str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", WEBP),
    (0, b"8BPS\0\1", "Photoshop document"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"BM", "BMP"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", JPEG_2000),
    (0, b"\xff\x4f\xff\x51", JPEG_2000),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", JPEG_XL),
    (0, b"\xff\x0a", JPEG_XL),
    (0, b"v/1\1", EXR),
    (0, b"#?RA", _BY_SUFFIX[".hdr"]),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (0, b"IIRO", RAW),
    (0, b"IIU\0", RAW),
    (0, b"FOVb", RAW),
    (0, b"8BPS\0\2", _BY_SUFFIX[".psb"]),
    (0, b"gimp xcf", _BY_SUFFIX[".xcf"]),
    (0, b"%PDF", _BY_SUFFIX[".pdf"]),
    (0, b"%!PS", _BY_SUFFIX[".eps"]),
    (0, b"<svg", _BY_SUFFIX[".svg"]),
    (0, b"\x1a\x45\xdf\xa3", _VIDEO),
    (8, b"AVI ", _VIDEO),
)
_BRANDS: tuple[tuple[bytes, Kind], ...] = (
    (b"avif", AVIF), (b"avis", AVIF), (b"crx ", RAW), (b"hei", HEIC), (b"hev", HEIC),
    (b"mif1", HEIC), (b"msf1", HEIC),
)  # fmt: skip


def is_image_name(name: str) -> bool:
    """Whether a file of this name is listed, with the reason if nothing here reads it."""
    return os.path.splitext(name)[1].lower() in _LISTED


def pillow_formats(path: Path) -> list[str]:
    """Pillow's formats that this file may have: never EPS and the like, which start programs."""
    named = _PILLOW.get(path.suffix.lower())
    return [*SURE, named] if named and named not in SURE else [*SURE]


def is_raw_by_name(path: Path) -> bool:
    """Whether it has the name of a camera's RAW file: many of those are TIFF files inside."""
    return _BY_SUFFIX.get(path.suffix.lower()) is RAW


def kind_by_name(path: Path) -> Kind | None:
    """The kind that the name stands for, if Pillow alone does not read it."""
    return _BY_SUFFIX.get(path.suffix.lower())


def kind_of(head: bytes) -> Kind | str | None:
    """The kind that the first `HEAD` bytes show; just a name for one that every Pillow reads."""
    if head[4:8] == b"ftyp":  # a family of its own: the major brand, then those it goes with
        brands = [head[8:12], *(head[i : i + 4] for i in range(16, len(head) - 3, 4))]
        exact = brands[1:] if brands[0] in (b"mif1", b"msf1") else brands[:1]
        for brand in (*exact, brands[0]):
            for start, kind in _BRANDS:
                if brand.startswith(start) and (brand == brands[0] or kind is AVIF):
                    return kind
        return _VIDEO
    for at, start, kind_or_name in _MAGIC:
        if head[at : at + len(start)] == start:
            return kind_or_name
    return None
