"""Files that real tools and hostile hands make of one picture: whole ones, and broken ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image, PngImagePlugin

MIB = 1 << 20


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Returns the file that Pillow writes of an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """Returns a PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, kind: bytes, data: bytes, *, at_the_end: bool = False) -> bytes:
    """Returns a PNG with one more chunk, behind its header or before its end."""
    place = len(png) - 12 if at_the_end else 33
    return png[:place] + chunk(kind, data) + png[place:]


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG that claims a size and has few pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def jpeg_header(jpeg: bytes, width: int, height: int) -> bytes:
    """Returns a baseline JPEG that claims another size."""
    place = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:place] + struct.pack(">HH", height, width) + jpeg[place + 4 :]


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _broken_exif(image: Image.Image) -> bytes:
    """A JPEG without a density, so that Pillow looks for one in an EXIF that ends too early."""
    jpeg = saved(image, "JPEG")
    entries = struct.pack("<HHHII", 1, 0x011A, 5, 1, 4000)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + entries
    app1 = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    # Without the JFIF segment, which is 18 bytes.
    return jpeg[:2] + app1 + jpeg[20:]


def _short_palette(png: bytes) -> bytes:
    """A PNG whose palette has two colours."""
    place = png.index(b"PLTE")
    end = place + 4 + int.from_bytes(png[place - 4 : place], "big") + 4
    return png[: place - 4] + chunk(b"PLTE", png[place + 4 : place + 10]) + png[end:]


def _text(value: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", value)
    return info


WHOLE: dict[str, Callable[[Image.Image], bytes]] = {
    "text of 2 MiB": lambda p: saved(p, "PNG", pnginfo=_text("x" * 2 * MIB)),
    "text behind the pixels": lambda p: with_chunk(
        saved(p, "PNG"), b"tEXt", b"Comment\0" + b"x" * 2 * MIB, at_the_end=True
    ),
    "text that grows to 20 MiB": lambda p: with_chunk(
        saved(p, "PNG"), b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20 * MIB))
    ),
    "text with a wrong checksum": lambda p: with_chunk(
        saved(p, "PNG"), b"tEXt", b"Comment\0old"
    ).replace(b"\0old", b"\0new"),
    "profile of 2 MiB": lambda p: saved(p, "PNG", icc_profile=bytes(2 * MIB)),
    "profile that is none": lambda p: with_chunk(saved(p, "PNG"), b"iCCP", b"x"),
    "animation that is none": lambda p: with_chunk(saved(p, "PNG"), b"acTL", bytes(8)),
    "animation": lambda p: saved(p, "PNG", save_all=True, append_images=[p.rotate(180)]),
    "jpeg, profile of 2 MiB": lambda p: saved(p, "JPEG", icc_profile=bytes(2 * MIB)),
    "jpeg, exif that is turned": lambda p: saved(p, "JPEG", exif=_exif(6)),
    "jpeg, exif that is broken": _broken_exif,
    "jpeg of four inks": lambda p: saved(p.convert("CMYK"), "JPEG"),
    "jpeg in many passes": lambda p: saved(p, "JPEG", progressive=True),
    "jpeg with bytes behind it": lambda p: saved(p, "JPEG") + bytes(999),
    "several jpegs": lambda p: saved(p, "MPO", save_all=True, append_images=[p.rotate(180)]),
    "grey": lambda p: saved(p.convert("L"), "PNG"),
    "black and white": lambda p: saved(p.convert("1"), "PNG"),
    "palette": lambda p: saved(p.convert("P"), "PNG"),
    "palette, clear colours": lambda p: saved(p.convert("P"), "PNG", transparency=bytes(256)),
    "clear": lambda p: saved(p.convert("RGBA"), "PNG"),
    "gif": lambda p: saved(p, "GIF"),
    "webp": lambda p: saved(p, "WEBP", lossless=True),
    "bmp": lambda p: saved(p, "BMP"),
    "tiff": lambda p: saved(p, "TIFF"),
    "ppm": lambda p: saved(p, "PPM"),
}
"""Files whose pixels are whole, whatever else is odd with them."""

BROKEN: dict[str, Callable[[Image.Image], bytes]] = {
    "no bytes": lambda _: b"",
    "no picture": lambda _: b"hello",
    "200 million pixels": lambda _: png_header(20_000, 10_000),
    "600 million pixels": lambda p: jpeg_header(saved(p, "JPEG"), 30_000, 20_000),
    "no pixels": lambda _: png_header(0, 0),
    "header of 5 bytes": lambda p: (
        saved(p, "PNG")[:8] + chunk(b"IHDR", bytes(5)) + saved(p, "PNG")[33:]
    ),
    "header alone": lambda p: saved(p, "PNG")[:33],
    "signature alone": lambda p: saved(p, "PNG")[:8],
    "half a png": lambda p: saved(p, "PNG")[: len(saved(p, "PNG")) // 2],
    "half a jpeg": lambda p: saved(p, "JPEG")[: len(saved(p, "JPEG")) // 2],
    "pixels that are none": lambda p: saved(p, "PNG").replace(b"IDAT", b"iDAT"),
    "palette that is lost": lambda p: saved(p.quantize(9), "PNG").replace(b"PLTE", b"pLTE"),
    "palette that is too short": lambda p: _short_palette(saved(p.quantize(9), "PNG")),
    "a program": lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "32 bits a sample": lambda p: saved(p.convert("F"), "TIFF"),
    "a page": lambda _: b"<!DOCTYPE html><html>404 Not Found</html>",
}
"""Files of which no picture can be had."""
