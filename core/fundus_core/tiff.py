"""Two TIFF tags that libtiff obeys whatever OpenCV is told, made harmless before decoding."""

import struct


def upright_tiff(data: bytes) -> bytes:
    """Return the TIFF with tags that ask for no turn and no multiplication by alpha.

    libtiff obeys both tags of the first page, whatever OpenCV's flags say.
    """
    plain = {274: 1, 338: 1}  # Orientation: upright; ExtraSamples: alpha is multiplied already
    order = "<" if data[:2] == b"II" else ">"
    try:
        big = struct.unpack_from(f"{order}H", data, 2) == (43,)
        pointer, n_entries, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
        (at,) = struct.unpack_from(order + pointer, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + n_entries, data, at)
        at += struct.calcsize(order + n_entries)
        patched = bytearray(data)
        for _ in range(count):
            tag, *kind = struct.unpack_from(order + entry, data, at)
            at += struct.calcsize(order + entry)
            if tag in plain and kind == [3, 1]:  # one 16-bit number
                struct.pack_into(f"{order}H", patched, at, plain[tag])
            at += struct.calcsize(order + pointer)
    except struct.error:
        return data  # the decoder says what is wrong with it
    return bytes(patched)
