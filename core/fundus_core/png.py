"""PNG chunks that OpenCV (4.11, 4.12) can't be trusted with, taken out before decoding."""

import struct

_ANIMATION = (b"acTL", b"fcTL", b"fdAT")


def whole_chunks(data: bytes) -> bytes:
    """Return the PNG without the chunks of an animation, and without those that are cut off.

    A damaged animation crashes the process; for a chunk as much memory is taken as its header announces.
    """
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end <= len(data) and kind not in _ANIMATION:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)
