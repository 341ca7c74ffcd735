"""One frame of a DICOM file -> an encoded picture that a server decodes to the right colours.

An 8-bit JPEG goes as it is. Anything else is decoded here and goes as BMP, or as PNG where that would be too
large; `python benchmarks/dicom.py` says why. 16 bit become 8 by the high ones, as in `fundus_core.images`.
Windows (VOI), overlays and ICC profiles are not applied: they say how a picture is shown, and a score is made
of what the camera wrote.

A JPEG that was cut in its middle and closed again has a plain rest in every decoder; that is not noticed.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import uid as uids
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut

from fundus_client.dicom.decoding import CODINGS, announced_by, decoded
from fundus_client.dicom.encapsulated import stream_of
from fundus_client.dicom.jpeg import Stream, as_rgb
from fundus_client.dicom.layout import Layout, layout_of, open_pixels
from fundus_client.dicom.part10 import Opened
from fundus_core.errors import FundusError, ImageError
from fundus_core.images import ImageLimits

_NATIVE = frozenset(
    (
        uids.ImplicitVRLittleEndian,
        uids.ExplicitVRLittleEndian,
        uids.ExplicitVRBigEndian,
        uids.DeflatedExplicitVRLittleEndian,
    )
)
_SCAN = b"\xff\xda\x00"  # the start of one, and the upper half of its length
_INDIRECT = frozenset(("MONOCHROME1", "PALETTE COLOR"))  # no decoder of images knows that they are

Pixels = NDArray[np.uint8]


def encoded_frame(data: bytes, frame: int, limits: ImageLimits) -> bytes:
    """Return one frame of a DICOM file as JPEG, BMP or PNG.

    Args:
        data: the whole file.
        frame: its number, from 1.
        limits: of the frame; its pixels are counted before anything is decoded.

    Raises:
        ImageError: with the reason; `corrupt` for a file that is cut off, or whose parts do not fit.
        MissingExtraError: a decoder is not installed.
    """
    try:
        return _encoded_frame(data, frame, limits)
    except FundusError:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of the run-length decoder, in Rust, is no Exception
        raise ImageError("corrupt", "The pixels of the DICOM object are damaged.") from None


def _encoded_frame(data: bytes, frame: int, limits: ImageLimits) -> bytes:
    opened = open_pixels(data)
    layout = layout_of(opened, limits)
    if not 1 <= frame <= layout.n_frames:
        raise ImageError("corrupt", f"There is no frame {frame} of {layout.n_frames}.")
    if opened.syntax in _NATIVE:
        return _written(_native(opened, layout, frame), limits)
    if opened.syntax not in CODINGS:
        name = uids.UID(opened.syntax).name
        raise ImageError("not_an_image", f"Pixels of the transfer syntax {name} cannot be decoded.")
    stream = stream_of(opened, layout, frame)
    announced = announced_by(opened.syntax, stream, layout)
    if announced.is_dct:
        limits.check_scans(stream.count(_SCAN))
    if not (announced.is_dct and announced.precision == 8) or layout.photometric in _INDIRECT:
        return _written(_decompressed(opened, layout, stream, announced), limits)
    limits.check_bytes(len(stream))
    return as_rgb(stream) if announced.is_rgb is None and layout.photometric == "RGB" else stream


def _native(opened: Opened, layout: Layout, frame: int) -> Pixels:
    values = memoryview(opened.data)[opened.value_at : opened.value_at + opened.length]
    options = layout.options() | {"pixel_vr": opened.vr}
    decoder = get_decoder(uids.UID(opened.syntax))
    samples, found = decoder.as_array(values, index=frame - 1, raw=True, **options)
    return _eight_bit(samples, layout.bits_stored, str(found["photometric_interpretation"]), opened, layout)


def _decompressed(opened: Opened, layout: Layout, stream: bytes, announced: Stream) -> Pixels:
    samples, photometric = decoded(opened.syntax, stream, layout, announced)
    if announced.is_rgb is not None:
        photometric = "RGB" if announced.is_rgb else "YBR_FULL"
    return _eight_bit(samples, min(announced.precision, layout.bits_stored), photometric, opened, layout)


def _eight_bit(samples: NDArray[Any], bits: int, photometric: str, opened: Opened, layout: Layout) -> Pixels:
    """Return 8-bit grey (H, W) or RGB (H, W, 3) of decoded samples that have `bits` bits."""
    if photometric == "PALETTE COLOR":
        samples = apply_color_lut(samples, opened.dataset)
        bits = opened.dataset.RedPaletteColorLookupTableDescriptor[2]
    elif layout.is_signed:
        samples = samples.astype(np.int32) + (1 << bits - 1)
    if bits != 8:
        samples = np.clip(samples >> bits - 8 if bits > 8 else samples << 8 - bits, 0, 255)
    pixels: Pixels = samples.astype(np.uint8, copy=False)
    if photometric.startswith("YBR_FULL"):
        return np.asarray(cv2.cvtColor(pixels[..., [0, 2, 1]], cv2.COLOR_YCrCb2RGB), np.uint8)
    return np.invert(pixels) if photometric == "MONOCHROME1" else pixels


def _written(pixels: Pixels, limits: ImageLimits) -> bytes:
    """Return grey (H, W) or RGB (H, W, 3) as a file, not compressed where that is small enough."""
    n_bytes = pixels.nbytes + 4 * len(pixels) + 2048  # rows are filled up, there is a header
    bgr = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    file = cv2.imencode(".bmp" if n_bytes <= limits.max_bytes else ".png", bgr)[1].tobytes()
    limits.check_bytes(len(file))
    return file
