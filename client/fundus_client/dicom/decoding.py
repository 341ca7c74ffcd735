"""Encoded streams -> samples, in the colour space that they were encoded in.

A damaged stream must not end the process. GDCM's decoder aborts on some, so that it runs in a process of its
own, and only for what nothing else here decodes: JPEG of more than 8 bits, which takes 0.5 s more per frame.
"""

import json
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import uid as uids
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder

from fundus_client.dicom.jpeg import Stream, as_rgb, jpeg2000_stream, jpeg_stream
from fundus_client.dicom.layout import Layout
from fundus_core.errors import ImageError, MissingExtraError

_GDCM = ("gdcm", "python-gdcm")
_PLUGINS = {  # of pydicom, one for each coding, so that a frame is the same everywhere; and its package
    **dict.fromkeys(uids.JPEGTransferSyntaxes, _GDCM),
    **dict.fromkeys(uids.JPEGLSTransferSyntaxes, ("pyjpegls", "pyjpegls")),
    **dict.fromkeys(uids.JPEG2000TransferSyntaxes, ("pylibjpeg", "pylibjpeg-openjpeg")),
    uids.RLELossless: ("pylibjpeg", "pylibjpeg-rle"),
}
CODINGS = frozenset(_PLUGINS)
_APART_S = 60

Samples = NDArray[Any]


def announced_by(syntax: str, stream: bytes, layout: Layout) -> Stream:
    """Return what a stream says of itself; of a run-length coded one, what the DICOM header says.

    Raises:
        ImageError: `corrupt` where it is no such stream, or one of another size than the header says.
    """
    if syntax == uids.RLELossless:
        return Stream(layout.rows, layout.columns, layout.samples, layout.bits_stored)
    announced = jpeg2000_stream(stream) if syntax in uids.JPEG2000TransferSyntaxes else jpeg_stream(stream)
    announced.check(layout)
    return announced


def decoded(syntax: str, stream: bytes, layout: Layout, announced: Stream) -> tuple[Samples, str]:
    """Return samples (H, W) or (H, W, 3), and the photometric interpretation that they have.

    Raises:
        ImageError: `corrupt` where the stream cannot be decoded.
        MissingExtraError: a decoder is not installed.
    """
    if syntax in uids.JPEGTransferSyntaxes and announced.precision == 8:
        return _by_libjpeg(stream), layout.photometric
    plugin, package = _PLUGINS[uids.UID(syntax)]
    # GDCM goes by the stream; as JPEG Extended pydicom would keep 12 bits from it: old ones failed on some.
    decoder = get_decoder(uids.JPEGLossless if (plugin, package) == _GDCM else uids.UID(syntax))
    if plugin not in decoder.available_plugins:
        raise MissingExtraError("dicom", package)
    options = layout.options() | {"number_of_frames": 1, "decoding_plugin": plugin}
    if (plugin, package) == _GDCM:
        return _apart(stream, options, layout), layout.photometric
    samples, found = decoder.as_array(encapsulate([stream]), index=0, raw=True, **options)
    return samples, str(found["photometric_interpretation"])


def _by_libjpeg(stream: bytes) -> Samples:
    """Return what is coded, without a change of colours: libjpeg knows none for a lossless stream."""
    samples = cv2.imdecode(np.frombuffer(as_rgb(stream), np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise ImageError("corrupt", "The JPEG stream is damaged.")
    return samples if samples.ndim == 2 else samples[..., ::-1]


def _apart(stream: bytes, options: dict[str, Any], layout: Layout) -> Samples:
    """Decode in a process that may die of it."""
    head = json.dumps(options).encode() + b"\n"
    line = [sys.executable, "-m", __name__]
    done = subprocess.run(line, input=head + stream, capture_output=True, timeout=_APART_S, check=True)
    kind = np.dtype(f"<{'ui'[layout.is_signed]}{layout.bits_allocated // 8}")
    shape = (layout.rows, layout.columns, layout.samples)
    return np.frombuffer(done.stdout, kind).reshape(shape[: 2 + (layout.samples > 1)])


def _decode_input() -> None:
    """Decode what `_apart` sends."""
    options = json.loads(sys.stdin.buffer.readline())
    one = encapsulate([sys.stdin.buffer.read()])
    samples, _ = get_decoder(uids.JPEGLossless).as_array(one, index=0, raw=True, **options)
    sys.stdout.buffer.write(samples.tobytes())


if __name__ == "__main__":
    _decode_input()
