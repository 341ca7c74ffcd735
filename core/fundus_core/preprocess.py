"""uint8 RGB photograph -> square uint8 pixels for the networks. Training and serving both call this."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import RecipeError
from fundus_core.images import DEFAULT_LIMITS, ImageLimits, decode

Pixels = NDArray[np.uint8]

LIT_SHARE = 0.01  # of a row or column; less is margin noise or a printed date
SCAN_PX = 512  # the margin is looked for on about this many rows and columns


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """What happens to a photograph before a network sees it.

    Args:
        size_px: side of the square result.
        margin_threshold: grey level (0-255) up to which a pixel counts as dark margin.
        centre_crop: share (0-1] of width and height kept around the centre, after the margin is gone.
    """

    size_px: int = 512
    margin_threshold: int = 16
    centre_crop: float = 1.0

    def __post_init__(self) -> None:
        if not 16 <= self.size_px <= 4096:
            raise RecipeError(f"size_px is {self.size_px}; choose 16 to 4096.")
        if not 0 <= self.margin_threshold <= 254:
            raise RecipeError(f"margin_threshold is {self.margin_threshold}; choose 0 to 254.")
        if not 0 < self.centre_crop <= 1:
            raise RecipeError(f"centre_crop is {self.centre_crop}; choose a share above 0, up to 1.")


def preprocess_encoded(data: bytes, spec: PreprocessSpec, limits: ImageLimits = DEFAULT_LIMITS) -> Pixels:
    """Return `preprocess(decode(data))`: encoded bytes -> (size_px, size_px, 3) uint8 RGB."""
    return preprocess(decode(data, limits), spec)


def preprocess(pixels: Pixels, spec: PreprocessSpec) -> Pixels:
    """Return (size_px, size_px, 3) uint8 RGB: margin removal, centre crop, black to square, area resize."""
    pixels = remove_margin(pixels, spec.margin_threshold)
    pixels = pad_to_square(crop_centre(pixels, spec.centre_crop))
    resized = cv2.resize(pixels, (spec.size_px, spec.size_px), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, dtype=np.uint8)


def remove_margin(pixels: Pixels, threshold: int) -> Pixels:
    """Return the part of (H, W, 3) `pixels` inside the dark margin; an all-dark image stays whole.

    A row or column belongs to the picture when at least `LIT_SHARE` of it is brighter than `threshold`.
    """
    step = max(1, min(pixels.shape[:2]) // SCAN_PX)
    red, green, blue = np.moveaxis(pixels[::step, ::step], 2, 0)
    lit = np.maximum(np.maximum(red, green), blue) > threshold  # 4 times as fast as max(axis=2)
    rows = np.flatnonzero(lit.mean(axis=1) >= LIT_SHARE)
    columns = np.flatnonzero(lit.mean(axis=0) >= LIT_SHARE)
    if rows.size == 0 or columns.size == 0:
        return pixels
    return pixels[rows[0] * step : (rows[-1] + 1) * step, columns[0] * step : (columns[-1] + 1) * step]


def crop_centre(pixels: Pixels, share: float) -> Pixels:
    """Return the central `share` of the height and width of (H, W, 3) `pixels`."""
    height, width = pixels.shape[:2]
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - rows) // 2, (width - columns) // 2
    return pixels[top : top + rows, left : left + columns]


def pad_to_square(pixels: Pixels) -> Pixels:
    """Return `pixels` with black bars that make it square, so that a resize keeps circles round."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    borders = (top, side - height - top, left, side - width - left)
    return np.asarray(
        cv2.copyMakeBorder(pixels, *borders, cv2.BORDER_CONSTANT, value=(0, 0, 0)), dtype=np.uint8
    )
