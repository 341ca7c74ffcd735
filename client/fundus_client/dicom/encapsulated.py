"""Encapsulated pixel data (PS3.5 A.4): one frame's stream, out of a sequence of fragments that is whole."""

import io
import struct

from pydicom.encaps import get_frame

from fundus_client.dicom.layout import Layout
from fundus_client.dicom.part10 import Opened
from fundus_core.errors import ImageError

_UNDEFINED = 0xFFFFFFFF  # a length
_ITEM, _DELIMITER = 0xFFFEE000, 0xFFFEE0DD


def stream_of(opened: Opened, layout: Layout, frame: int) -> bytes:
    """Return the encoded stream of a frame.

    Raises:
        ImageError: `corrupt` where fragments are cut off or missing.
    """
    _check_whole(opened)
    fragments = io.BytesIO(opened.data)  # shares the bytes
    fragments.seek(opened.value_at)
    tables = opened.dataset.get("ExtendedOffsetTable"), opened.dataset.get("ExtendedOffsetTableLengths")
    offsets = (bytes(tables[0]), bytes(tables[1])) if all(tables) else None
    return get_frame(fragments, frame - 1, number_of_frames=layout.n_frames, extended_offsets=offsets)


def _check_whole(opened: Opened) -> None:
    """Walk from fragment to fragment: pydicom takes one that ends early as it is, and misses no delimiter."""
    at = opened.value_at
    while opened.length == _UNDEFINED and at + 8 <= len(opened.data):
        group, element, length = struct.unpack_from("<HHI", opened.data, at)
        at += 8 + length
        tag = group << 16 | element
        if tag == _DELIMITER:
            return
        if tag != _ITEM:
            break
    raise ImageError("corrupt", "The encapsulated pixels are cut off or damaged.")
