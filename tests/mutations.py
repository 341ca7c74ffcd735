"""Encoded phantoms, and damage that gets past a format's first checks: tags, segments, checksums."""

import io
import random
import re
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from fundus_core import phantoms

EXTREMES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 2**31 - 1, 2**31, 2**32 - 1)
Change = Callable[[bytearray, random.Random], bytearray]


def _encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def _seeds() -> dict[str, bytes]:
    pixels = cv2.resize(phantoms.render(0).pixels, (192, 160), interpolation=cv2.INTER_AREA)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[274] = 6
    return {
        "jpeg": _encoded(image, "JPEG", exif=exif),
        "jpeg progressive": _encoded(image, "JPEG", progressive=True, restart_marker_blocks=4),
        "jpeg cmyk": _encoded(image.convert("CMYK"), "JPEG"),
        "jpegs (MPO)": _encoded(image, "MPO", save_all=True, append_images=[image.convert("L")]),
        "png": _encoded(image, "PNG"),
        "png palette": _encoded(image.quantize(64), "PNG", transparency=3),
        "png 16 bit": cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1].tobytes(),
        "png animated": _encoded(image, "PNG", save_all=True, append_images=[image.rotate(90)]),
        "tiff": _encoded(image, "TIFF"),
        "tiff lzw": _encoded(image, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": _encoded(image, "TIFF", compression="jpeg"),
        "tiff fax": _encoded(image.convert("1"), "TIFF", compression="group4"),
        "bigtiff": _encoded(image, "TIFF", big_tiff=True, compression="tiff_deflate"),
        "bmp": _encoded(image, "BMP"),
        "bmp palette": _encoded(image.quantize(64), "BMP"),
    }


SEEDS = _seeds()


def mutated(name: str, seed: int) -> bytes:
    """Return `SEEDS[name]` after one to three changes; the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 (no secret)
    data = bytearray(SEEDS[name])
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(CHANGES)(data, rng)
    return bytes(data)


def _cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data) + 1)]


def _flip(data: bytearray, rng: random.Random) -> bytearray:
    head = rng.choice((64, 512, len(data)))
    for _ in range(rng.randint(1, 20)):
        if data:
            data[rng.randrange(min(head, len(data)))] = rng.randrange(256)
    return data


def _number(data: bytearray, rng: random.Random) -> bytearray:
    """Write an extreme number somewhere into the header."""
    return _put(data, rng.randrange(400), _extreme(rng, rng.choice("BHI"), rng.choice("<>")))


def _repeat(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.choice((1, 16, 1024))]
    return data[:start] + part * rng.choice((0, 2, 50)) + data[start + len(part) :]


def _graft(data: bytearray, rng: random.Random) -> bytearray:
    other = SEEDS[rng.choice(list(SEEDS))]
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def _noise(data: bytearray, rng: random.Random) -> bytearray:
    kept = rng.choice((2, 4, 8, 64, 512))
    return data[:kept] + rng.randbytes(rng.choice((0, 10, 5000)))


def _png_chunk(data: bytearray, rng: random.Random) -> bytearray:
    """Change a chunk and make its checksum right again; perhaps repeat the chunk."""
    starts = [found.start() - 4 for found in re.finditer(b"IHDR|PLTE|tRNS|IDAT|acTL|fcTL|fdAT|IEND", data)]
    if not starts:
        return data
    at = rng.choice(starts)
    (length,) = struct.unpack_from(">I", data, at)
    body = data[at + 4 : at + 8 + length]
    _put(body, rng.randrange(4, 21), _extreme(rng, rng.choice("BI"), ">"))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:at] + chunk * rng.choice((1, 1, 2, 40)) + data[at + 12 + length :]


def _tiff_tag(data: bytearray, rng: random.Random) -> bytearray:
    """Change tag, type, count or value of an entry of the first directory."""
    if bytes(data[:4]) != b"II*\0" or len(data) < 8:
        return data
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at) if at + 2 <= len(data) else (0,)
    field, kind = rng.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "I"), (8, "H")))
    return _put(data, at + 2 + 12 * rng.randrange(count + 1) + field, _extreme(rng, kind, "<"))


def _jpeg_segment(data: bytearray, rng: random.Random) -> bytearray:
    """Change a segment's first bytes, or repeat, move or drop the segment."""
    starts = [found.start() for found in re.finditer(rb"\xff[\xc0-\xcf\xda-\xdd\xe0-\xef]", data)]
    if len(starts) < 2:
        return data
    which = rng.randrange(len(starts) - 1)
    start, end = starts[which : which + 2]
    segment = data[start:end]
    _put(segment, rng.randrange(2, 12), _extreme(rng, rng.choice("BH"), ">"))
    place = rng.choice(starts)
    rest = data[:start] + data[end:]
    return rest[:place] + segment * rng.choice((0, 1, 2, 300)) + rest[place:]


def _put(data: bytearray, at: int, content: bytes) -> bytearray:
    if at + len(content) <= len(data):
        data[at : at + len(content)] = content
    return data


def _extreme(rng: random.Random, kind: str, order: str) -> bytes:
    return struct.pack(order + kind, rng.choice(EXTREMES) & (2 ** (8 * struct.calcsize(kind)) - 1))


CHANGES: tuple[Change, ...] = (
    _cut,
    _flip,
    _number,
    _repeat,
    _graft,
    _noise,
    _png_chunk,
    _tiff_tag,
    _jpeg_segment,
)
