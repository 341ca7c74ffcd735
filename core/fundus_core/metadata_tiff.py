"""A TIFF without its metadata: see `fundus_core.metadata`.

Offsets stay as they are. What a decoder needs of the first page is copied to its place: the header, the tags
that it reads and their values, strips or tiles. Whatever else there is, named by a tag or not, becomes zeros:
descriptions, Exif and GPS directories, thumbnails, other pages, gaps. The file ends where the last part does.

Letters in shapes: E entries of the directory, R ranges of bytes, each from its start to behind its end.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NEEDED = (
    *(256, 257, 258, 259, 262, 266, 274, 277, 284, 317, 320, 332, 338, 339),  # size, samples, colours
    *(273, 278, 279, 322, 323, 324, 325),  # strips and tiles
    *(292, 293, 347),  # fax, JPEG
    *(318, 529, 530, 531, 532),  # Lab and YCbCr
    *(32995, 32996, 32997, 32998),  # older names of 338 and 339; depth
)
_TYPE_BYTES = np.zeros(2**16, np.int64)
_TYPE_BYTES[1:19] = (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
_INTEGERS = (1, 3, 4, 6, 8, 9, 13, 16, 17, 18)  # types
_FAR = 2**40  # behind the end of every file

_Ints = NDArray[np.int64]


def tiff_without_metadata(data: bytes) -> bytes:
    """Return the first page with nothing but what makes its pixels. Never raises."""
    try:
        page = _read_page(data)
    except struct.error:  # no directory, no picture
        return data[:8]
    except OverflowError:  # too far away for Pillow as well, which takes it for damaged
        return data[:16]
    ranges = _merged(page.needed_ranges(), len(data))
    apart = ranges[(ranges[:, 1] <= page.at) | (ranges[:, 0] >= page.end)]
    parts: list[tuple[int, bytes | memoryview]] = []
    if not page.complete:  # nor must it be now
        ranges = _merged(np.vstack((ranges, page.needed_entries())), len(data))
    elif len(apart) < len(ranges):  # pixels are said to be where the tags are
        ranges = _merged(np.vstack((ranges, (page.at, page.end))), len(data))
    else:
        parts = [(page.at, page.needed_directory())]
    view = memoryview(data)
    parts += ((start, view[start:end]) for start, end in ranges.tolist())
    return _in_their_places(sorted(parts, key=lambda part: part[0]))


@dataclass(frozen=True)
class _Page:
    """The directory of the first page."""

    data: bytes
    order: str  # "<" or ">"
    word_bytes: int  # 4, in a BigTIFF 8
    at: int
    first: int  # where the entries start, behind their number
    end: int
    complete: bool  # no entry is cut off
    entries: NDArray[Any]  # (E,) tag, type, count, value
    values: _Ints  # (E, 2) where they are; may be behind the end of the file

    @property
    def is_read(self) -> NDArray[np.bool_]:
        """Return which entries a decoder reads (E,)."""
        return np.isin(self.entries["tag"], _NEEDED)

    @property
    def is_needed(self) -> NDArray[np.bool_]:
        """Return these, and those over which Pillow stumbles: their values are cut off (E,)."""
        return self.is_read | (self.values[:, 1] > len(self.data))

    def needed_directory(self) -> bytes:
        """Return a directory of the entries that are needed, and no next page."""
        kept = self.entries[self.is_needed]
        count = struct.pack(f"{self.order}{'H' if self.word_bytes == 4 else 'Q'}", len(kept))
        return count + kept.tobytes() + bytes(self.word_bytes)

    def needed_entries(self) -> _Ints:
        """Return where the announced number and the entries are that are needed (R, 2)."""
        starts = self.first + np.flatnonzero(self.is_needed) * self.entries.itemsize
        return np.vstack(([[self.at, self.first]], np.column_stack((starts, starts + self.entries.itemsize))))

    def needed_ranges(self) -> _Ints:
        """Return where the header, values that don't fit into their entry, and the picture are (R, 2)."""
        elsewhere = self.is_read & (self.values[:, 1] - self.values[:, 0] > self.word_bytes)
        ranges = [np.array([[0, 2 * self.word_bytes]]), self.values[elsewhere]]
        if self.complete:
            ranges += (self._picture(273, 279), self._picture(324, 325))  # strips, tiles
        return np.vstack(ranges)

    def _picture(self, offsets_tag: int, lengths_tag: int) -> _Ints:
        """Return where the strips or tiles of these tags are (R, 2)."""
        offsets, lengths = self._numbers(offsets_tag), self._numbers(lengths_tag)
        lengths = np.pad(lengths[: len(offsets)], (0, max(0, len(offsets) - len(lengths))))
        if len(offsets):
            lengths[offsets > 0] = np.maximum(lengths, self._least_length(lengths))[offsets > 0]
        return np.column_stack((offsets, offsets + lengths))

    def _least_length(self, lengths: _Ints) -> int:
        """Return what libtiff (`TIFFReadDirectory`) makes of lengths that it doesn't believe, else 0."""
        if self._number(277, 1) > 1 and self._number(284, 1) == 2:  # a plane each
            return 0
        height = self._number(257, 0)
        is_single = self._number(278, height) >= height and not self._number(322, 0)
        if self._number(259, 1) > 1:  # compressed
            return _FAR if is_single and lengths[0] == 0 else 0
        if not is_single and (len(lengths) < 3 or lengths[0] == lengths[1]):
            return 0
        row_bytes = (self._number(256, 0) * self._number(277, 1) * self._number(258, 1) + 7) // 8
        return min(_FAR, row_bytes * (height // (1 if is_single else len(lengths))))

    def _number(self, tag: int, default: int) -> int:
        numbers = self._numbers(tag)
        return int(numbers[0]) if len(numbers) else default

    def _numbers(self, tag: int) -> _Ints:
        """Return the integers of a tag, as far as they are there; decoders take the first entry of a tag."""
        found = np.flatnonzero(self.entries["tag"] == tag)[:1]
        if not len(found) or self.entries["type"][found[0]] not in _INTEGERS:
            return np.zeros(0, np.int64)
        start, end = np.minimum(self.values[found[0]], len(self.data)).tolist()
        width = int(_TYPE_BYTES[self.entries["type"][found[0]]])
        numbers: NDArray[Any] = np.ndarray(
            ((end - start) // width,), f"{self.order}u{width}", self.data, start
        )
        return _near(numbers)


def _read_page(data: bytes) -> _Page:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2) == (43,)
    word, number = ("Q", "Q") if big else ("I", "H")
    (at,) = struct.unpack_from(order + word, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + number, data, at)
    fields = (("tag", "H"), ("type", "H"), ("count", word), ("value", word))
    entry = np.dtype([(name, order + kind) for name, kind in fields])
    first = at + (8 if big else 2)
    there = min(count, (len(data) - first) // entry.itemsize)
    entries: NDArray[Any] = np.ndarray((there,), entry, data, first)
    word_bytes = 8 if big else 4
    sizes = _near(entries["count"]) * _TYPE_BYTES[entries["type"]]
    inline = first + (np.arange(there) + 1) * entry.itemsize - word_bytes
    starts = np.where(sizes <= word_bytes, inline, _near(entries["value"]))
    return _Page(
        data=data,
        order=order,
        word_bytes=word_bytes,
        at=at,
        first=first,
        end=min(len(data), first + count * entry.itemsize + word_bytes),
        complete=count == there,
        entries=entries,
        values=np.column_stack((starts, starts + sizes)),
    )


def _near(numbers: NDArray[Any]) -> _Ints:
    return np.minimum(numbers.astype(np.uint64), _FAR).astype(np.int64)


def _merged(ranges: _Ints, size: int) -> _Ints:
    """Return the ranges within `size`, in order, those that touch as one (R, 2)."""
    ranges = ranges.clip(0, size)
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    ranges = ranges[ranges[:, 0].argsort()]
    ends = np.maximum.accumulate(ranges[:, 1])
    last = np.append(ranges[1:, 0] > ends[:-1], True)
    return np.column_stack((ranges[np.append(True, last[:-1]), 0], ends[last]))


def _in_their_places(parts: list[tuple[int, bytes | memoryview]]) -> bytes:
    """Return the parts, each at its offset, with zeros between them."""
    pieces: list[bytes | memoryview] = []
    end = 0
    for start, part in parts:
        pieces += (bytes(start - end), part)
        end = start + len(part)
    return b"".join(pieces)
