"""JPEG, JPEG-LS and JPEG 2000 streams: what they announce, and whether a decoder gets their colours right.

A decoder takes the colours of a stream by the stream alone (libjpeg: JFIF says YCbCr, Adobe says which,
component ids R, G, B say RGB, anything else is YCbCr), and knows nothing of PhotometricInterpretation.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from fundus_client.dicom.layout import Layout
from fundus_core.errors import ImageError

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_FRAMES = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7))
_DCT = frozenset((0xC0, 0xC1, 0xC2))  # baseline, extended, progressive
_APP0, _APP14, _START_OF_SCAN = 0xE0, 0xEE, 0xDA
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_RGB_IDS = ((82, 71, 66), (114, 103, 98))  # "RGB", "rgb"
_APP14_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # transform 0
_PADDING_BYTES = 64  # that may follow a stream
_CODESTREAM = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream, its SIZ segment
_COD = b"\xff\x52"


@dataclass(frozen=True, slots=True)
class Stream:
    """The header of one encoded picture.

    Args:
        precision: bits per sample.
        is_dct: whether it is a JPEG that is baseline, extended or progressive.
        is_rgb: whether the stream itself says that its colours are RGB; None where it says nothing.
    """

    rows: int
    columns: int
    components: int
    precision: int
    is_dct: bool = False
    is_rgb: bool | None = None

    def check(self, layout: Layout) -> None:
        """Raise `ImageError` (`corrupt`) where the stream is of another size than its DICOM header says."""
        size = f"{self.columns} x {self.rows} x {self.components}"
        said = f"{layout.columns} x {layout.rows} x {layout.samples}"
        if size != said or self.precision > layout.bits_allocated:
            bits = f"{self.precision} bits in {layout.bits_allocated}"
            raise ImageError("corrupt", f"The stream has {size} samples, its header says {said}; {bits}.")


def jpeg_stream(data: bytes) -> Stream:
    """Read the header of a JPEG or JPEG-LS stream.

    Raises:
        ImageError: `corrupt` where there is no header, or no end.
    """
    if not data.startswith(b"\xff\xd8") or data.rfind(b"\xff\xd9", -_PADDING_BYTES) < 0:
        raise ImageError("corrupt", "The JPEG stream is cut off.")
    says_ycc, adobe = False, None
    for code, start, end in _segments(data):
        if code in _FRAMES:
            return _frame(data, code, start, False if says_ycc else adobe)
        says_ycc |= code == _APP0 and data.startswith(b"JFIF\0", start + 4)
        if code == _APP14 and data.startswith(b"Adobe", start + 4) and end >= start + 16:
            adobe = data[start + 15] == 0
    raise ImageError("corrupt", "The JPEG stream has no frame header.")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the code, start and end of each segment, up to that of the first scan."""
    code, end = 0, 2
    while code != _START_OF_SCAN and (found := _MARKER.search(data, end)):
        code, end = data[found.end() - 1], found.end()
        if code not in _NO_LENGTH:
            end += int.from_bytes(data[end : end + 2], "big")
        yield code, found.start(), end


def _frame(data: bytes, code: int, start: int, is_rgb: bool | None) -> Stream:
    precision, rows, columns, count = struct.unpack_from(">BHHB", data, start + 4)
    parts = [tuple(data[at : at + 2]) for at in range(start + 10, start + 10 + 3 * count, 3)]
    if count != 3:
        is_rgb = None
    elif is_rgb is None:
        if tuple(part[0] for part in parts) in _RGB_IDS:
            is_rgb = True
        elif len({part[1] for part in parts}) > 1:  # colour of fewer samples than light: never RGB
            is_rgb = False
    return Stream(rows, columns, count, precision, code in _DCT, is_rgb)


def as_rgb(data: bytes) -> bytes:
    """Return the JPEG stream as one that tells a decoder that its components are RGB, whatever it said."""
    kept, at = [data[:2], _APP14_RGB], 2
    for code, start, end in _segments(data):
        if code in (_APP0, _APP14):
            kept.append(data[at:start])
            at = end
    return b"".join((*kept, data[at:]))


def jpeg2000_stream(data: bytes) -> Stream:
    """Read the header of a JPEG 2000 codestream, also of one within a JP2 file.

    `is_rgb` says that its own colour transform makes RGB of it, whatever PhotometricInterpretation says.

    Raises:
        ImageError: `corrupt` where there is none.
    """
    at = data.find(_CODESTREAM)
    if at < 0:
        raise ImageError("corrupt", "There is no JPEG 2000 codestream.")
    right, low, left, top = struct.unpack_from(">4I", data, at + 8)
    (components,) = struct.unpack_from(">H", data, at + 40)
    precision = (data[at + 42] & 0x7F) + 1
    cod = data.find(_COD, at)
    transforms = cod >= 0 and data[cod + 8] == 1
    return Stream(low - top, right - left, components, precision, is_rgb=True if transforms else None)
