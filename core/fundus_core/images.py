"""Encoded bytes -> uint8 RGB pixels, for JPEG, PNG, TIFF and BMP.

8 and 16 bit, grey, palette and alpha all become 8-bit RGB: 16 bit keeps the high byte (colour TIFF rounds),
alpha is dropped. The EXIF orientation is ignored on purpose: fundus cameras write upright pixels, and a tag
that an archive rewrote must not turn an eye. Of a file with several pages the first counts.
"""

import io
import math
import sys
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fundus_core.errors import ImageError
from fundus_core.png import whole_chunks
from fundus_core.tiff import upright_tiff

FORMATS = ("JPEG", "PNG", "TIFF", "BMP")
_SCALED = {1: 0, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
Pixels = NDArray[np.uint8]

_SCAN = b"\xff\xda\x00"  # start of scan, and the upper half of its length: never within the coded pixels

cv2.setLogLevel(0)  # a corrupt file is reported by its row, not by OpenCV on stderr


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is refused unread (`max_bytes`) or undecoded (`max_pixels`, `max_scans`), against bombs.

    Preprocessing makes a square of a photograph: one of 1 x 65,535 pixels would take 13 GB, so that no side
    may be longer than that of a photograph twice as wide as high. A progressive JPEG has about 10 scans; each
    goes over all pixels, however few bytes it has, and a small file could keep a core busy for hours.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 100_000_000
    max_scans: int = 100

    def check_bytes(self, n_bytes: int) -> None:
        """Raise `ImageError` (`empty`, `too_large`) for a file of a size that is not read."""
        if n_bytes == 0:
            raise ImageError("empty", "The file has 0 bytes.")
        if n_bytes > self.max_bytes:
            raise ImageError("too_large", f"{n_bytes:,} bytes; the limit is {self.max_bytes:,}.")

    @property
    def max_side_px(self) -> int:
        """The longest side of a picture that is decoded."""
        return math.isqrt(2 * self.max_pixels)

    def check_pixels(self, width_px: int, height_px: int) -> None:
        """Raise `ImageError` (`not_an_image`, `too_many_pixels`) for a size that is not decoded."""
        if width_px < 1 or height_px < 1:
            raise ImageError("not_an_image", f"The header announces {width_px} x {height_px} pixels.")
        limit = None
        if width_px * height_px > self.max_pixels:
            limit = f"the limit is {self.max_pixels:,} pixels"
        elif max(width_px, height_px) > self.max_side_px:
            limit = f"the limit of a side is {self.max_side_px:,} pixels"
        if limit:
            raise ImageError("too_many_pixels", f"The header announces {width_px} x {height_px}; {limit}.")

    def check_scans(self, n_scans: int) -> None:
        """Raise `ImageError` (`corrupt`) for a JPEG that takes too long to decode."""
        if n_scans > self.max_scans:
            raise ImageError("corrupt", f"The JPEG has {n_scans:,} scans; the limit is {self.max_scans:,}.")


DEFAULT_LIMITS = ImageLimits()


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Pixels:
    """Return the (H, W, 3) uint8 RGB pixels of one encoded image.

    Raises:
        ImageError: with the reason; a stream that ends early is refused. (Damage in the middle of a
            JPEG that its decoder passes over is not noticed.)
    """
    return decode_reduced(data, limits, sys.maxsize)[0]


def decode_reduced(data: bytes, limits: ImageLimits, least_px: int) -> tuple[Pixels, int]:
    """Return an image as `reduce` would, and how many times smaller than in the file it is.

    Of a JPEG only the frequencies that the smaller picture shows are decoded, by the scaled inverse DCT of
    libjpeg: faster than the whole, and nearly the mean of each square.

    Raises:
        ImageError: as `decode`.
    """
    limits.check_bytes(len(data))
    format_, width_px, height_px = _header(data)
    limits.check_pixels(width_px, height_px)
    times = 1
    if format_ in ("JPEG", "MPO"):
        limits.check_scans(data.count(_SCAN))
        times = min(reduction(min(width_px, height_px), least_px), max(_SCALED))
    pixels, again = reduce(_decoded(data, format_, _SCALED[times]), least_px)
    return pixels, times * again


def reduction(side_px: int, least_px: int) -> int:
    """Return the largest power of two by which a side may be divided and keep `least_px`, 2 or more."""
    times = 1
    while -(-side_px // (2 * times)) >= least_px:
        times *= 2
    return times


def reduce(pixels: Pixels, least_px: int) -> tuple[Pixels, int]:
    """Return the mean (h, w, 3) of each square of pixels (H, W, 3), and the side of these squares.

    The shorter side keeps `least_px`: what was reduced before stays as it is. The last rows and columns that
    fill no square go.
    """
    times = reduction(min(pixels.shape[:2]), least_px)
    if times == 1:
        return pixels, 1
    height, width = pixels.shape[0] // times, pixels.shape[1] // times
    whole = pixels[: height * times, : width * times]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8), times


def _decoded(data: bytes, format_: str, scaled: int) -> Pixels:
    if format_ == "TIFF":
        data = upright_tiff(data)
    if format_ == "PNG":
        data = whole_chunks(data)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | scaled
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageError("corrupt", f"The {format_} stream is cut off or damaged.")
    return np.asarray(pixels, dtype=np.uint8)


def _header(data: bytes) -> tuple[str, int, int]:
    """Return (format, width, height) without decoding pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return str(image.format), image.width, image.height
        except Image.DecompressionBombError:
            raise ImageError(
                "too_many_pixels", "The header announces more pixels than any camera has."
            ) from None
        except UnidentifiedImageError:
            raise ImageError("not_an_image", "The content is no readable JPEG, PNG, TIFF or BMP.") from None
        except Exception:  # a hostile header may raise nearly anything; one file must not end the others
            raise ImageError("corrupt", "The header cannot be read.") from None
