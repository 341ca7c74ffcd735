"""TIFFs written by hand, with a name in every place that no decoder needs."""

import struct
import zlib
from dataclasses import dataclass, field

import cv2
import numpy as np

NAME = "Müller 1948-07-21"  # of no patient
DATE = "1948-07-21"  # what every encoding keeps
BYTES = NAME.encode()
RGB = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (88, 60))

Entries = dict[int, tuple[int, bytes]]  # tag -> type, values

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1}


@dataclass
class _Writer:
    order: str
    big: bool
    out: bytearray = field(default_factory=bytearray)

    @property
    def word(self) -> str:
        return self.order + ("Q" if self.big else "I")

    def put(self, blob: bytes) -> int:
        self.out.extend(bytes(len(self.out) % 2) + blob)
        return len(self.out) - len(blob)

    def shorts(self, *values: int) -> tuple[int, bytes]:
        return 3, struct.pack(f"{self.order}{len(values)}H", *values)

    def longs(self, *values: int) -> tuple[int, bytes]:
        return 4, struct.pack(f"{self.order}{len(values)}I", *values)

    def directory(self, entries: Entries, following: int = 0) -> int:
        rows, word_bytes = b"", struct.calcsize(self.word)
        for tag, (kind, raw) in sorted(entries.items()):
            value = raw if len(raw) <= word_bytes else struct.pack(self.word, self.put(raw))
            rows += struct.pack(self.order + "HH", tag, kind)
            rows += struct.pack(self.word, len(raw) // _TYPE_BYTES[kind]) + value.ljust(word_bytes, b"\0")
        count = struct.pack(self.order + ("Q" if self.big else "H"), len(entries))
        return self.put(count + rows + struct.pack(self.word, following))


def tiff(order: str = "<", *, big: bool = False, form: str = "strips") -> bytes:
    """Write `RGB`; `form` is how the pixels are stored."""
    writer = _Writer(order, big)
    writer.put(bytes(16 if big else 8) + BYTES)  # the header's place, and a gap
    picture = _picture(writer, form)
    below = writer.directory({270: (2, BYTES), 37510: (7, BYTES), 37500: (7, NAME.encode("utf-16-le"))})
    page = writer.directory({270: (2, BYTES), 256: writer.shorts(1), 257: writer.shorts(1)})
    main = writer.directory(
        _texts() | {tag: writer.longs(below) for tag in (330, 34665, 34853)} | picture, page
    )
    writer.put(BYTES)
    version = struct.pack(order + "HHH", 43, 8, 0) if big else struct.pack(order + "H", 42)
    header = (b"II" if order == "<" else b"MM") + version + struct.pack(writer.word, main)
    return header + bytes(writer.out[len(header) :])


def tiff_ending_in_text() -> bytes:
    """Move a description behind everything else, and make it long."""
    data = tiff()
    at = data.rindex(struct.pack("<HHI", 270, 2, len(BYTES)))
    return data[:at] + struct.pack("<HHII", 270, 2, 2000, len(data)) + data[at + 12 :] + BYTES.ljust(2000)


def _texts() -> Entries:
    ascii_tags = (269, 270, 271, 272, 285, 305, 306, 315, 316, 333, 33432, 33723, 34675, 37724, 65000)
    byte_tags = (700, 34377, 40091, 40093, 50000)
    wide = NAME.encode("utf-16-le")
    return dict.fromkeys(ascii_tags, (2, BYTES)) | dict.fromkeys(byte_tags, (1, wide)) | {42112: (2, b"Oz\0")}


def _picture(writer: _Writer, form: str) -> Entries:
    """Put the parts, with the name before each of them; return the tags that say where they are."""
    shorts = writer.shorts
    tags = {256: shorts(88), 257: shorts(60), 258: shorts(8, 8, 8), 259: shorts(1), 262: shorts(2)}
    parts, special = _parts(writer, form)
    offsets = [writer.put(part) for part in parts if writer.put(BYTES)]
    lengths = [len(part) for part in parts]
    if form == "wrong lengths":
        lengths[1] = 7
    at, size = (324, 325) if "tiles" in form else (273, 279)
    tags |= {
        at: writer.longs(*offsets),
        size: writer.longs(*lengths),
        277: shorts(3),
        284: shorts(1),
    } | special
    return {tag: tags[tag] for tag in tags if not (tag == 279 and form.endswith("without lengths"))}


def _parts(writer: _Writer, form: str) -> tuple[list[bytes], Entries]:
    shorts, whole = writer.shorts, RGB.tobytes()
    if form in ("strips", "wrong lengths"):
        rows = 25 if form == "strips" else 20
        return [RGB[y : y + rows].tobytes() for y in range(0, 60, rows)], {278: shorts(rows)}
    if form == "planes":
        parts = [RGB[y : y + 50, :, plane].tobytes() for plane in range(3) for y in (0, 50)]
        return parts, {278: shorts(50), 284: shorts(2)}
    if "tiles" in form:
        padded = np.pad(RGB, ((0, 4), (0, 8), (0, 0)))
        parts = [padded[y : y + 32, x : x + 32].tobytes() for y in (0, 32) for x in (0, 32, 64)]
        packed = [zlib.compress(part) for part in parts] if "packed" in form else parts
        return packed, {322: shorts(32), 323: shorts(32), 259: shorts(8 if "packed" in form else 1)}
    if "packed" in form:
        return [zlib.compress(whole)], {259: shorts(8), 278: shorts(60)}
    if form == "ycbcr":
        return [whole], {262: shorts(6), 278: shorts(60), 530: shorts(1, 1)}
    if form == "bits turned round":
        return [np.packbits(np.unpackbits(RGB, bitorder="little")).tobytes()], {
            266: shorts(2),
            278: shorts(60),
        }
    if form == "floats":
        return [whole], {278: shorts(60), 339: shorts(3, 3, 3)}
    if form == "floats, by an old tag":
        return [whole], {278: shorts(60), 32996: shorts(3)}
    return [whole], {278: shorts(60)}
