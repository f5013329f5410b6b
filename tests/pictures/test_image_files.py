"""Image files of every kind: what is shown, what is said about it, and why others are not."""

from __future__ import annotations

import io
import sys
import threading
import zlib
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from imagegate.core.pictures import Picture
from imagegate.folder.search import find_images
from imagegate.pictures.encode import light
from imagegate.pictures.formats.image_files import (
    lossy,
    open_image,
    read_full,
    read_preview,
    read_size,
    why,
)
from tests.support.stored import PATIENCE

tifffile = pytest.importorskip("tifffile")

RAMP = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1))
COLOURS = np.dstack([RAMP, RAMP[::-1], 1 - RAMP])
BYTES = (COLOURS * 255).astype(np.uint8)


def decoded(picture: Picture) -> Image.Image:
    image = Image.open(io.BytesIO(picture.body))
    image.load()
    return image


def seen(path: Path) -> np.ndarray[Any, Any]:
    """The preview's pixels, 0 to 1."""
    image = decoded(read_preview(path))
    return np.asarray(image.convert("RGB"), np.float32) / 255


def reason(path: Path) -> str:
    """Why a file cannot be shown."""
    try:
        read_size(path)
        read_preview(path)
    except Exception as error:
        return why(error)
    raise AssertionError(f"{path.name} can be shown")


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return pack(">I", len(body)) + kind + body + pack(">I", zlib.crc32(kind + body))


def png16(values: np.ndarray[Any, Any]) -> bytes:
    """RGB or RGBA with 16 bits a colour."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0)
    chunks = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IEND", b"")


def noise(path: Path, **save: Any) -> bytes:
    """A file that does not compress, so that half of it is half the image."""
    pixels = np.random.default_rng(0).integers(1, 255, (160, 200, 3), np.uint8)
    Image.fromarray(pixels).save(path, **save)
    return path.read_bytes()


# -- what is listed


def test_files_that_nobody_reads_are_listed_and_no_others(tmp_path: Path) -> None:
    """Every kind of image is found, readable or not, in capitals too; text and sidecars are not."""
    images = ["a.heic", "b.JXL", "c.jp2", "d.tga", "e.CR2", "f.nef", "g.psd", "h.exr", "i.svg",
              "j.mp4", "k.pdf", "l.ico", "m.hdr", "n.pcx", "o.ppm", "p.xcf", "q.dng"]  # fmt: skip
    others = ["a.txt", "b.json", "c.xmp", "d.aae", "e.html", "f.zip", "g.safetensors", "readme"]
    for name in images + others:
        (tmp_path / name).write_bytes(b"something")
    assert list(find_images(tmp_path)) == images


def test_an_image_without_an_ending_is_found_by_its_content(tmp_path: Path) -> None:
    """Downloads are often called by a bare number."""
    Image.fromarray(BYTES).save(tmp_path / "8f3a", "PNG")
    (tmp_path / "LICENSE").write_text("no image")
    assert list(find_images(tmp_path)) == ["8f3a"]
    assert read_size(tmp_path / "8f3a") == (64, 32)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("a.svg", b"<?xml version='1.0'?><svg/>", "SVG: a drawing"),
     ("a.pdf", b"%PDF-1.7", "PDF: a document"),
     ("a.mp4", b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a video"),
     ("a.mov", b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video"),
     ("a.hdr", b"#?RADIANCE\n", "Radiance HDR: not read; convert"),
     ("a.xcf", b"gimp xcf v011", "GIMP: not read; export"),
     ("a.kra", b"PK\3\4 something", "Krita: not read"),
     ("a.psb", b"8BPS\0\2 something", "Photoshop"),
     ("a.jpg", b"", "the file is empty"),
     ("b.jpg", bytes(1000), "not that of an image"),
     ("c.jpg", b"no image, but text", "not that of an image"),
     ("d.jpg", b"%PDF-1.7", "PDF: a document"),
     ("e.heic", b"no image, but text", "not that of an image")],
)  # fmt: skip
def test_what_has_no_reader_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    """The reason names what the file is, by its content first, and what to do."""
    (tmp_path / name).write_bytes(content)
    assert says in reason(tmp_path / name)


@pytest.mark.parametrize(
    ("module", "name", "package"),
    [("pillow_heif", "a.heic", "pip install pillow-heif"),
     ("pillow_heif", "a.jpg", "HEIC needs a package: pip install pillow-heif"),
     ("pillow_jxl", "a.jxl", "JPEG XL needs a package: pip install pillow-jxl-plugin"),
     ("rawpy", "a.nef", "camera RAW needs a package: pip install rawpy"),
     ("rawpy", "a.tif", "pip install rawpy"),
     ("OpenEXR", "a.exr", "pip install OpenEXR"),
     ("tifffile", "b.tif", "TIFF of 3 x 16-bit float needs a package: pip install tifffile")],
)  # fmt: skip
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, package: str
) -> None:
    """Where an optional package is missing the reason says which to install, whatever the name."""
    path = tmp_path / name
    if module == "pillow_heif":
        path.write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(50))
    elif module == "pillow_jxl":
        path.write_bytes(b"\xff\x0a" + bytes(50))
    elif name == "b.tif":
        tifffile.imwrite(path, COLOURS.astype(np.float16), photometric="rgb")
    elif module == "rawpy":
        dng(path)
    else:
        path.write_bytes(b"v/1\1" + bytes(50))
    monkeypatch.setitem(sys.modules, module, None)
    assert package in reason(path)


def test_a_package_that_does_not_load_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package whose library is missing says that, and not that it should be installed."""
    (tmp_path / "rawpy.py").write_text("raise ImportError('libraw.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rawpy", raising=False)
    (tmp_path / "a.nef").write_bytes(b"II*\0\x08\0\0\0\0\0")
    assert reason(tmp_path / "a.nef") == "rawpy does not load: libraw.so: cannot open"
    monkeypatch.delitem(sys.modules, "rawpy", raising=False)


@pytest.mark.processes
def test_optional_packages_are_imported_by_the_first_file_that_needs_one(tmp_path: Path) -> None:
    """Reading a PNG, or importing all of this, imports none of them."""
    import subprocess

    Image.fromarray(BYTES).save(tmp_path / "a.png")
    code = (
        "import sys, pathlib; from imagegate.pictures.formats.image_files import read_preview\n"
        f"read_preview(pathlib.Path({str(tmp_path / 'a.png')!r}))\n"
        "sys.exit(str({'pillow_heif', 'pillow_jxl', 'rawpy', 'tifffile', 'OpenEXR'}"
        " & set(sys.modules) or ''))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""


# -- what Pillow and the optional packages read


def dng(path: Path) -> None:
    """A small camera RAW file: a Bayer pattern of 12 bits."""
    values = np.random.default_rng(1).integers(200, 4000, (64, 96)).astype(np.uint16)
    matrix = (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)
    tags = [(33421, 3, 2, (2, 2), True), (33422, 1, 4, bytes([0, 1, 1, 2]), True),
            (50706, 1, 4, bytes([1, 4, 0, 0]), True), (50708, 2, 5, "Test", True),
            (50721, 10, 9, matrix, True), (50717, 4, 1, 4095, True), (50714, 4, 1, 0, True),
            (50728, 5, 3, (1, 1, 1, 1, 1, 1), True), (274, 3, 1, 6, True)]  # fmt: skip
    tifffile.imwrite(path, values, photometric=32803, extratags=tags)


@pytest.mark.parametrize(
    "suffix",
    ["png", "jpg", "webp", "bmp", "gif", "tif", "avif", "jp2", "tga", "ppm", "pcx", "sgi", "dds",
     "qoi", "ico", "icns", "dib", "heic", "jxl"],
)  # fmt: skip
def test_every_format_that_can_be_read_is_shown(tmp_path: Path, suffix: str) -> None:
    """Size, preview and full image are those of the picture, whatever the format."""
    path = tmp_path / f"a.{suffix}"
    write(path)
    width, height = read_size(path)
    assert width == 2 * height or suffix == "icns"
    assert decoded(read_full(path)).size == (width, height)
    if suffix != "icns":
        picture = seen(path)
        assert picture.shape == (height, width, 3)
        assert picture[:, : width // 8, 2].mean() > 0.8 > 0.3 > picture[:, : width // 8, 0].mean()


def write(path: Path) -> None:
    if path.suffix == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif path.suffix == ".jxl":
        pytest.importorskip("pillow_jxl")
    else:
        Image.init()
        if path.suffix not in Image.registered_extensions():
            pytest.skip(f"this Pillow cannot write {path.suffix}")
    try:
        Image.fromarray(BYTES).save(path)
    except (KeyError, ValueError) as error:  # an older Pillow reads it only
        pytest.skip(f"this Pillow cannot write {path.suffix}: {error}")


@pytest.mark.parametrize(("written", "name"), [("PNG", "a.jpg"), ("JPEG", "a.png"),
                                               ("WEBP", "a.tif"), ("HEIF", "a.jpeg"),
                                               ("PNG", "a.heic"), ("JPEG", "a.nef")])  # fmt: skip
def test_a_wrong_ending_does_not_matter(tmp_path: Path, written: str, name: str) -> None:
    """What is in the file counts, not what it is called."""
    if written == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    Image.fromarray(BYTES).save(tmp_path / name, written)
    assert read_size(tmp_path / name) == (64, 32)
    assert abs(seen(tmp_path / name) - COLOURS).mean() < 0.05


@pytest.mark.parametrize("name", ["a.dng", "a.tif"])
def test_camera_raw_is_developed(tmp_path: Path, name: str) -> None:
    """A RAW file is developed and turned as the camera says; not its thumbnail, nor as a TIFF."""
    pytest.importorskip("rawpy")
    dng(tmp_path / name)
    assert read_size(tmp_path / name) == (64, 96)
    preview = read_preview(tmp_path / name)
    assert decoded(preview).size == decoded(read_full(tmp_path / name)).size == (64, 96)
    assert preview.remarks == ("developed from camera RAW",)


def test_heic_is_turned_once(tmp_path: Path) -> None:
    """An iPhone's HEIC says how it is turned in two places; only one of them counts."""
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(BYTES).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.heic")
    with Image.open(tmp_path / "a.heic") as image:
        wanted = image.size
    assert read_size(tmp_path / "a.heic") == wanted
    assert decoded(read_preview(tmp_path / "a.heic")).size == wanted


def test_openexr_is_shown_as_light(tmp_path: Path) -> None:
    """What a renderer wrote is turned from linear light into sRGB; what is too bright is said."""
    package = pytest.importorskip("OpenEXR")
    header = {"compression": package.ZIP_COMPRESSION, "type": package.scanlineimage}
    path = tmp_path / "a.exr"
    package.File(header, {"RGB": np.full((20, 30, 3), 0.2140, np.float32)}).write(str(path))
    assert read_size(path) == (30, 20)
    assert abs(seen(path) - 0.5).max() < 0.02
    package.File(header, {"RGB": np.full((20, 30, 3), 3, np.float32)}).write(str(path))
    assert read_preview(path).remarks == ("values up to 3 are cut off at 1",)


def test_pictures_of_photoshop_and_other_readers_of_pillow_need_no_package(tmp_path: Path) -> None:
    """An 8-bit PSD is shown by its flattened picture."""
    pixels = np.moveaxis(BYTES, 2, 0)
    head = b"8BPS" + pack(">H6xHIIHH", 1, 3, 32, 64, 8, 3)
    (tmp_path / "a.psd").write_bytes(head + pack(">IIIH", 0, 0, 0, 0) + pixels.tobytes())
    assert abs(seen(tmp_path / "a.psd") - COLOURS).mean() < 0.02
    assert read_preview(tmp_path / "a.psd").remarks == ()


# -- numbers of all kinds


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "kind", ["uint8", "uint16", "int16", "uint32", "float16", "float32", "float64"]
)
def test_tiffs_of_all_numbers_are_shown(
    tmp_path: Path, kind: str, order: str, channels: int
) -> None:
    """Every kind of number that uses its range looks as if it were 8 bits, and nothing is said."""
    image = RAMP if channels == 1 else COLOURS
    number = np.dtype(kind)
    top = 1 if number.kind == "f" else float(np.iinfo(number).max)
    values = np.clip(image.astype(np.float64) * top, 0, top).astype(number)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, values, byteorder=order, photometric="rgb" if channels == 3 else "minisblack"
    )
    wanted = image if channels == 3 else np.dstack([image] * 3)
    assert read_size(path) == (64, 32)
    assert abs(seen(path) - wanted).mean() < 0.03
    assert read_preview(path).remarks == ()
    assert decoded(read_full(path)).size == (64, 32)


@pytest.mark.parametrize("layout", [{"planarconfig": "separate"}, {"bigtiff": True},
                                    {"compression": "zlib"}, {"tile": (16, 16)}])  # fmt: skip
def test_float_colour_tiffs_in_any_layout(tmp_path: Path, layout: dict[str, Any]) -> None:
    """Planes, BigTIFF, compression and tiles do not matter."""
    planes = layout.get("planarconfig") == "separate"
    values = np.ascontiguousarray(np.moveaxis(COLOURS, 2, 0)) if planes else COLOURS
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", **layout)
    assert abs(seen(tmp_path / "a.tif") - COLOURS).mean() < 0.03


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
@pytest.mark.parametrize("how", ["grey.png", "grey.tif", "colour.png", "colour.tif", "packed.tif"])
def test_few_bits_in_a_16_bit_file_are_shown_brighter(tmp_path: Path, how: str, bits: int) -> None:
    """What a camera wrote with 12 bits is seen, smoothly, and said; the full image stays exact."""
    image = RAMP if how.startswith("grey") else COLOURS
    values = np.rint(image * (2**bits - 1)).astype(np.uint16)
    path = tmp_path / how
    if how == "colour.png":
        path.write_bytes(png16(values))
    elif how == "grey.png":
        Image.fromarray(values).save(path)
    else:
        packing = {"compression": "zlib"} if how == "packed.tif" else {}
        kind = "minisblack" if values.ndim == 2 else "rgb"
        tifffile.imwrite(path, values, photometric=kind, **packing)
    depth = bits + bits % 2
    wanted = (image if values.ndim == 3 else np.dstack([image] * 3)) * (
        (2**bits - 1) / (2**depth - 1)
    )
    preview = read_preview(path)
    assert preview.remarks == (f"shown brighter: {depth} bits in a 16-bit file",)
    assert abs(seen(path) - wanted).mean() < 0.03
    full = read_full(path)
    zoomed = np.asarray(decoded(lossy(full)).convert("RGB"), np.float32) / 255
    assert abs(zoomed - wanted).mean() < 0.03, "enlarged it looks the same"
    assert np.array_equal(tifffile_of_png(full.body), values)


def tifffile_of_png(body: bytes) -> np.ndarray[Any, Any]:
    """The exact values of a 16-bit PNG without filters, or of grey as Pillow reads it."""
    width, height, depth, colour = (*map(int, np.frombuffer(body[16:24], ">u4")), *body[24:26])
    assert depth == 16
    if colour == 0:
        return np.asarray(Image.open(io.BytesIO(body))).astype(np.uint16)
    at = body.index(b"IDAT")
    rows = zlib.decompress(body[at + 4 : at + 4 + int.from_bytes(body[at - 4 : at], "big")])
    lines = np.frombuffer(rows, np.uint8).reshape(height, -1)
    assert not lines[:, 0].any()
    return lines[:, 1:].copy().view(">u2").reshape(height, width, -1).astype(np.uint16)


def test_a_label_map_in_a_16_bit_file_can_be_seen(tmp_path: Path) -> None:
    """Values 0 to 5 fill the range, and that is said; a black image stays black."""
    values = np.tile(np.arange(6, dtype=np.uint16), (4, 1))
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_preview(tmp_path / "a.png").remarks == (
        "shown brighter: values up to 5 in a 16-bit file",
    )
    assert seen(tmp_path / "a.png").max() > 0.95
    Image.fromarray(values * 0).save(tmp_path / "a.png")
    assert read_preview(tmp_path / "a.png").remarks == ()
    assert seen(tmp_path / "a.png").max() == 0


@pytest.mark.parametrize(
    ("values", "says", "bright"),
    [(RAMP * 0.05, "shown brighter: values up to 0.05 of 1", 1),
     (RAMP * 255, "shown with 0 as black and 255 as white", 1),
     (RAMP - 0.5, "shown with -0.5 as black and 0.5 as white", 1),
     (np.where(RAMP > 0.99, np.nan, RAMP), "", 0.97),
     (np.where(RAMP == 1, np.inf, RAMP), "", 0.97)],
)  # fmt: skip
def test_floats_of_any_range_can_be_seen(
    tmp_path: Path, values: np.ndarray[Any, Any], says: str, bright: float
) -> None:
    """Floats outside 0 to 1, all in the dark, or not finite are shown, and it is said how."""
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "a.tif")
    assert read_preview(tmp_path / "a.tif").remarks == ((says,) if says else ())
    assert abs(seen(tmp_path / "a.tif").max() - bright) < 0.04
    assert seen(tmp_path / "a.tif")[:, :4].mean() < 0.1


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("1", "png"), ("LA", "png"), ("P", "png"), ("PA", "png"), ("CMYK", "tif"), ("LAB", "tif"),
     ("YCbCr", "jpg")],
)  # fmt: skip
def test_modes_without_numbers_of_their_own(tmp_path: Path, mode: str, suffix: str) -> None:
    """1-bit, grey with alpha, palettes, CMYK, Lab and YCbCr keep light and dark."""
    image = Image.fromarray((RAMP * 255).astype(np.uint8))
    if mode == "PA":  # saved as a palette with one transparent entry
        palette = image.convert("P")
        palette.save(tmp_path / "a.png", transparency=0)
    elif mode == "LAB":
        lab = ImageCms.profileToProfile(
            image.convert("RGB"), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"),
            outputMode="LAB",
        )  # fmt: skip
        assert lab is not None
        lab.info.clear()
        lab.save(tmp_path / "a.tif")
    else:
        image.convert("RGB" if mode in ("CMYK", "YCbCr") else "L").convert(mode).save(
            tmp_path / f"a.{suffix}"
        )
    picture = seen(tmp_path / f"a.{suffix}")
    assert picture[:, 4:12].mean() < 0.25 < 0.75 < picture[:, -8:].mean()
    if mode == "PA":
        assert decoded(read_preview(tmp_path / "a.png")).getchannel("A").getextrema()[0] == 0


# -- colours


def profile(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()  # type: ignore[arg-type]


def curved(space: bytes, gamma: float) -> bytes:
    """A small ICC profile: grey with a gamma, or RGB with the primaries of Display P3."""
    curve = b"curv" + pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"
    white = (0.9642, 1.0, 0.8249)
    xyz = {b"wtpt": white}
    if space == b"RGB ":
        xyz |= {b"rXYZ": (0.5151, 0.2412, -0.0011), b"gXYZ": (0.2919, 0.6922, 0.0419),
                b"bXYZ": (0.1572, 0.0666, 0.7841)}  # fmt: skip
    text = b"mluc" + pack(">IIIIII", 0, 1, 12, 0x656E5553, 8, 28) + "Test".encode("utf-16-be")
    tags = {b"desc": text, b"cprt": text}
    tags |= {
        name: b"XYZ " + pack(">Iiii", 0, *(round(v * 65536) for v in at))
        for name, at in xyz.items()
    }
    for name in (b"kTRC",) if space == b"GRAY" else (b"rTRC", b"gTRC", b"bTRC"):
        tags[name] = curve
    table, body = pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + pack(">II", start + len(body), len(content))
        body += content
    size = 128 + len(table) + len(body)
    head = pack(">I4sI4s4s4s12x4s4s", size, b"none", 0x04300000, b"mntr", space, b"XYZ ", b"acsp",
                b"none").ljust(68, b"\0")  # fmt: skip
    head += pack(">iii", *(round(v * 65536) for v in white))
    return (head.ljust(128, b"\0")) + table + body


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_grey_profile_counts(tmp_path: Path, mode: str) -> None:
    """Grey written with a gamma of 1 looks as bright as it is meant, in each kind of grey."""
    linear = curved(b"GRAY", 1.0)
    grey = np.full((20, 20), 0.214)
    grey[0] = 1
    if mode == "I;16":
        image = Image.fromarray((grey * 65535).astype(np.uint16))
    else:
        image = Image.fromarray((grey * 255).astype(np.uint8)).convert(mode)
    image.save(tmp_path / "a.png", icc_profile=linear)
    assert abs(seen(tmp_path / "a.png")[10, 10] - 0.5).max() < 0.03


def test_wide_colours_are_shown_in_srgb(tmp_path: Path) -> None:
    """A green of Display P3 is not shown as sRGB's paler one of the same numbers; full keeps it."""
    wide = curved(b"RGB ", 2.2)
    Image.new("RGB", (20, 20), (100, 160, 100)).save(tmp_path / "a.png", icc_profile=wide)
    red, green, _ = seen(tmp_path / "a.png")[10, 10]
    assert red < 92 / 255
    assert green > 158 / 255
    assert decoded(read_full(tmp_path / "a.png")).info["icc_profile"] == wide


@pytest.mark.parametrize("name", ["a.exr", "a.cr2", "a.psd", "a.jxl", "a.tif", "a.jpg", "a.png"])
def test_no_reason_names_the_place_of_a_file(tmp_path: Path, name: str) -> None:
    """Why a broken file is not shown, people with a link may read too: never where it lies."""
    starts = {
        ".exr": b"\x76\x2f\x31\x01", ".cr2": b"II*\0", ".psd": b"8BPS", ".jxl": b"\xff\x0a",
        ".tif": b"II*\0\x08\0\0\0", ".jpg": b"\xff\xd8\xff\xe0", ".png": b"\x89PNG\r\n\x1a\n",
    }  # fmt: skip
    path = tmp_path / name
    path.write_bytes(starts[path.suffix] + bytes(60))
    with pytest.raises(Exception) as error:  # noqa: PT011  nearly anything, see `why`
        read_preview(path)
    assert str(tmp_path) not in why(error.value)


def test_a_broken_or_foreign_profile_is_no_reason_to_refuse(tmp_path: Path) -> None:
    """Grey with an RGB profile, or with none that can be read, is shown by its numbers."""
    grey = Image.new("L", (20, 20), 128)
    for kept in (profile("sRGB"), b"no profile" * 20):
        grey.save(tmp_path / "a.jpg", icc_profile=kept)
        assert abs(seen(tmp_path / "a.jpg") - 0.5).max() < 0.02


# -- several in one file


@pytest.mark.parametrize(
    ("name", "says"),
    [("a.tif", "1 of 12 pages"), ("a.gif", "1 of 12 frames"), ("a.webp", "1 of 12 frames"),
     ("a.png", "1 of 12 frames"), ("a.avif", "1 of 12 frames")],
)  # fmt: skip
def test_more_pages_or_frames_than_one_are_said(tmp_path: Path, name: str, says: str) -> None:
    """The first is shown, and of how many it is the first."""
    Image.init()
    if Path(name).suffix not in Image.registered_extensions():
        pytest.skip(f"this Pillow cannot write {name}")
    images = [Image.new("RGB", (20, 20), (250 - 20 * i, 0, 20 * i)) for i in range(12)]
    images[0].save(tmp_path / name, save_all=True, append_images=images[1:])
    preview = read_preview(tmp_path / name)
    assert preview.remarks == (says,)
    assert seen(tmp_path / name)[10, 10, 0] > 0.9


def test_the_second_picture_of_a_phones_jpeg_is_none(tmp_path: Path) -> None:
    """Phones put a gain map behind the photograph (MPO): nobody misses that."""
    Image.new("RGB", (20, 20)).save(
        tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (10, 10))]
    )
    assert read_preview(tmp_path / "a.jpg").remarks == ()


# -- broken


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.jpg", {}), ("b.jpg", {"progressive": True}), ("a.png", {}), ("a.webp", {}),
     ("b.webp", {"lossless": True}), ("a.gif", {}), ("a.bmp", {}), ("a.tga", {}), ("a.tif", {})],
)  # fmt: skip
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_file_whose_end_is_missing_is_shown_as_far_as_it_goes(
    tmp_path: Path, name: str, options: dict[str, Any], part: float
) -> None:
    """Its upper rows are there, it is marked, and no setting of Pillow is touched for it."""
    path = tmp_path / name
    body = noise(path, **options)
    whole = np.asarray(decoded(read_full(path)).convert("RGB"), np.float32)
    path.write_bytes(body[: int(len(body) * part)])
    assert read_size(path) == (200, 160)
    preview, full = read_preview(path), read_full(path)
    assert preview.remarks == ("broken: the end of the file is missing",)
    assert decoded(preview).size == decoded(full).size == (200, 160)
    rows = 4 if name in ("b.jpg", "b.webp") else int(160 * part * 0.6)
    # A progressive JPEG has all rows, blurred; others begin with the last row, or interlace them.
    if name not in ("b.jpg", "a.gif", "a.bmp", "a.tga"):
        top = np.asarray(decoded(full).convert("RGB"), np.float32)[:rows]
        assert abs(top - whole[:rows]).mean() < 2
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert light(preview).remarks == preview.remarks


def test_other_threads_still_refuse_broken_files(tmp_path: Path) -> None:
    """While previews of a broken file are made, Pillow elsewhere raises as it always does."""
    path = tmp_path / "a.jpg"
    path.write_bytes(noise(path)[:9000])
    going = threading.Event()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            read_preview(path)
            going.set()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        assert going.wait(PATIENCE)
        for _ in range(50):
            with Image.open(path) as image, pytest.raises(OSError, match="truncated"):
                image.load()
    finally:
        done.set()
        looking.join()


def test_a_damaged_middle_is_marked(tmp_path: Path) -> None:
    """A PNG with a hole in it is shown down to there."""
    body = bytearray(noise(tmp_path / "a.png"))
    body[len(body) // 2 : len(body) // 2 + 300] = bytes(300)
    (tmp_path / "a.png").write_bytes(body)
    assert read_preview(tmp_path / "a.png").remarks == (
        "broken: only part of the file can be read",
    )


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tif", "a.jp2"])
def test_forty_bytes_are_no_image(tmp_path: Path, name: str) -> None:
    """A file with little more than its header is called broken, by the name of its format."""
    (tmp_path / name).write_bytes(noise(tmp_path / name)[:40])
    assert "file is broken" in reason(tmp_path / name)


def test_what_nothing_can_be_decoded_of_is_refused(tmp_path: Path) -> None:
    """A JPEG 2000 that breaks off has no rows to show."""
    body = noise(tmp_path / "a.jp2")
    (tmp_path / "a.jp2").write_bytes(body[: len(body) // 2])
    assert "it is broken: " in reason(tmp_path / "a.jp2")


def test_a_disk_that_fails_is_not_taken_for_a_broken_file(tmp_path: Path) -> None:
    """A file that cannot be read just now is not shown as if its end were missing."""
    with pytest.raises(IsADirectoryError):
        read_preview(tmp_path)
    assert why(FileNotFoundError(2, "No such file")) == "it is gone"


# -- large


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (16_385, 16_384)])
def test_a_header_that_says_too_much_is_refused(tmp_path: Path, width: int, height: int) -> None:
    """A few bytes that claim to be billions of pixels are refused by their size, and quickly."""
    head = pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head)
    body += png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(body)
    assert f"its header says {width} × {height} pixels" in reason(tmp_path / "bomb.png")


def test_sixteen_thousand_pixels_a_side_are_looked_at(tmp_path: Path) -> None:
    """The largest images are shown, although Pillow's own limit, which stays, is lower."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.new("1", (16_384, 16_384), 1).save(tmp_path / "a.png")
    assert read_size(tmp_path / "a.png") == (16_384, 16_384)
    assert decoded(read_preview(tmp_path / "a.png")).size == (1536, 1536)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_sources_are_closed(tmp_path: Path) -> None:
    """Reading leaves no file open, also where it fails."""
    Image.fromarray(BYTES).save(tmp_path / "a.png")
    source = open_image(tmp_path / "a.png")
    source.close()
    (tmp_path / "b.png").write_bytes(b"no image")
    before = (
        {entry.name for entry in Path("/proc/self/fd").iterdir()} if Path("/proc").is_dir() else ()
    )
    reason(tmp_path / "b.png")
    read_preview(tmp_path / "a.png")
    after = (
        {entry.name for entry in Path("/proc/self/fd").iterdir()} if Path("/proc").is_dir() else ()
    )
    assert len(after) <= len(before)
