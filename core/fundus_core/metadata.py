"""Encoded pictures without their metadata: what leaves this machine is what a decoder needs, and no more.

Nothing is decoded or compressed anew; only the parts that `fundus_core.images.decode` needs are copied. It
gives the same pixels, or the same reason for a file that it refuses: what was cut off is still cut off, and
what is no image at all becomes `NO_IMAGE`. One difference is wanted: where only a part that is taken out was
damaged, the picture may be scored after all.

What stays: text burned into the pixels; bytes that hide within the coded ones; the density of a JFIF header;
how many frames an animated PNG had; what follows the pixels of a run-length coded BMP; comments within the
JPEG strips of a TIFF; what follows the strips of a TIFF that doesn't say, or says wrongly, where they end.
"""

import re
import struct
import zlib

import numpy as np

from fundus_core.metadata_tiff import tiff_without_metadata

NO_IMAGE = b"no image"

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]")
_JPEG_APPLICATION = frozenset((*range(0xE0, 0xF0), 0xFE))  # and comments
_JPEG_NEEDED = frozenset((*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xDA, 0xE0)))  # tables, scans
_JPEG_PASSED_OVER = frozenset((0x01, *range(0xD0, 0xD8)))  # restarts and such, outside of a scan
_JPEG_WITHIN_SCAN = (*range(0xD0, 0xD8), 0xFF)  # restarts, filling
_JPEG_COLOURS = {0xE0: (b"JFIF\0", b"\0\0"), 0xEE: (b"Adobe", b"")}  # 12 bytes of each; no thumbnail
_JPEG_EMPTY_COMMENT = b"\xff\xfe\x00\x02"
_JPEG_CUT_COMMENT = b"\xff\xfe\xff\xff"  # announces more than there is
_STEP_BYTES = 1 << 18  # stays in the cache

_PNG_NEEDED = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL"))  # Pillow checks acTL
_PNG_NAME = re.compile(rb"\w{4}")
_PNG_EMPTY = b"noNe"  # a private chunk: decoders pass over it

_BMP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)
_BMP_DEPTHS = (1, 4, 8, 16, 24, 32)


def without_metadata(data: bytes) -> bytes:
    """Return the encoded picture without Exif, XMP, IPTC, ICC, comments, thumbnails, other pages, trailers.

    Never raises; returns `data` itself where there is nothing to take out.
    """
    for magic, walk in _WALKS.items():
        if data.startswith(magic):
            return walk(data)
    return data and NO_IMAGE


def _jpeg(data: bytes) -> bytes:
    """Keep tables, frame and scans of the first picture.

    The markers up to the first scan are walked as Pillow does, those behind it as libjpeg does.
    """
    view, at, in_scans = memoryview(data), 2, False
    kept: list[bytes | memoryview] = [view[:2]]
    while found := _JPEG_MARKER.search(data, at):
        start, body = found.span()
        code = data[start + 1]
        at = body + max(2, int.from_bytes(data[body : body + 2], "big"))  # behind the segment
        if code in _JPEG_APPLICATION:
            kept.append(_application(data, start, at, in_scans))
        elif code in _JPEG_NEEDED:
            if code == 0xDA:
                at, in_scans = _end_of_scan(data, at), True
            kept.append(view[start:at])
        else:
            at = body
            kept.append(view[start:at])
            if code not in _JPEG_PASSED_OVER if in_scans else code < 0xC0:
                break  # the picture's end, or what no decoder gets past
    return _joined(kept, data)


def _application(data: bytes, start: int, end: int, in_scans: bool) -> bytes:
    """Return what takes the place of an APP or COM segment."""
    if end > len(data):
        return _JPEG_CUT_COMMENT[: len(data) - start]
    if in_scans:  # the coded bytes on both sides of it would join
        return _JPEG_EMPTY_COMMENT
    name, thumbnail = _JPEG_COLOURS.get(data[start + 1], (b"", b""))
    body = data[start + 4 : end][:12]
    if not name or not body.startswith(name) or end - start < 16 + len(thumbnail):
        return b""
    return data[start : start + 2] + (14 + len(thumbnail)).to_bytes(2, "big") + body + thumbnail


def _end_of_scan(data: bytes, at: int) -> int:
    """Return where the coded bytes from `at` on end: at a marker that is no restart."""
    coded = np.frombuffer(data, np.uint8)
    for start in range(at, len(data) - 1, _STEP_BYTES):
        second = coded[start + 1 : start + 1 + _STEP_BYTES]
        mark = second | 0x3F
        mark &= coded[start : start + len(second)]  # 0xFF where 0xFF comes before 0xC0 or more
        place = int(mark.argmax())
        if mark[place] == 0xFF and second[place] in _JPEG_WITHIN_SCAN:
            places = np.flatnonzero(mark == 0xFF)
            mark[places[np.isin(second[places], _JPEG_WITHIN_SCAN)]] = 0
            place = int(mark.argmax())
        if mark[place] == 0xFF:
            return start + place
    return len(data)


def _png(data: bytes) -> bytes:
    """Keep the chunks that make pixels; an empty one takes the place of any other.

    Its checksum is wrong where that of the other was: Pillow refuses such a file.
    """
    view, at = memoryview(data), 8
    kept: list[bytes | memoryview] = [view[:8]]
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        start, at = at, at + 12 + length
        if at > len(data):
            kept.append(_cut_chunk(view[start:], name, length))
            break
        if name in _PNG_NEEDED:
            kept.append(view[start:at])
        else:
            checksum = int.from_bytes(view[at - 4 : at], "big")
            kept.append(_empty_chunk(name, whole=zlib.crc32(view[start + 4 : at - 4]) == checksum))
        if name == b"IEND":
            break
    return _joined(kept, data)


def _empty_chunk(name: bytes, whole: bool) -> bytes:
    """Return what takes the place of a chunk that makes no pixels."""
    if not _PNG_NAME.fullmatch(name):
        return bytes(12)
    passed_over = name.isalpha() and name[:1].islower()
    name = _PNG_EMPTY if passed_over else name
    return struct.pack(">I4sI", 0, name, zlib.crc32(name) ^ (not whole))


def _cut_chunk(chunk: memoryview, name: bytes, length: int) -> bytes | memoryview:
    """Return a chunk that lacks as much as this one."""
    if name == b"IDAT":
        return chunk[:8]
    if name in _PNG_NEEDED:
        return chunk
    if not _PNG_NAME.fullmatch(name):
        return bytes(8)
    return struct.pack(">I4s", 0 if len(chunk) >= 8 + length else 2**31 - 1, _PNG_EMPTY)


def _bmp(data: bytes) -> bytes:
    """Keep header, masks, palette and rows; zeros take the place of what lies between them."""
    if len(data) < 18:
        return data[:2]
    pixels_at, header_bytes = struct.unpack_from("<II", data, 10)
    sizes = _bmp_sizes(data, header_bytes)
    if sizes is None:
        return data[:2] + bytes(16)  # a header of 0 bytes
    front, end = min(sizes[0], len(data)), pixels_at + sizes[1]
    gap = max(0, min(pixels_at, len(data)) - front)
    return data[:front] + bytes(gap) + data[front + gap : end] if gap else data[: max(front, end)]


def _bmp_sizes(data: bytes, header_bytes: int) -> tuple[int, int] | None:
    """Return the bytes before the rows, and those of the rows; None for a header that Pillow refuses."""
    if header_bytes not in _BMP_HEADER_BYTES or len(data) < 14 + header_bytes:
        return None
    colours = compression = 0
    if header_bytes == 12:
        width, height, _, depth = struct.unpack_from("<4H", data, 18)
    else:
        width, height, _, depth, compression = struct.unpack_from("<iiHHI", data, 18)
        (colours,) = struct.unpack_from("<I", data, 46)
    if depth not in _BMP_DEPTHS or compression > 3:
        return None
    front = 14 + header_bytes + (16 if compression == 3 and header_bytes == 40 else 0)
    if depth <= 8:
        front += min(colours or 1 << depth, 2**16) * (3 if header_bytes == 12 else 4)
    if compression in (1, 2):  # runs: how many bytes they take shows when they are decoded
        return front, len(data)
    return front, (width * depth + 31) // 32 * 4 * abs(height)


def _joined(kept: list[bytes | memoryview], data: bytes) -> bytes:
    """Return the parts as one; `data` where they are all of it."""
    return data if sum(map(len, kept)) == len(data) else b"".join(kept)


_WALKS = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"BM": _bmp,
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), tiff_without_metadata),
    **dict.fromkeys((b"II\0*", b"MM*\0"), tiff_without_metadata),  # damaged, but Pillow opens them
}
