"""Erase the vessels of a fundus photograph, after Nakagawa et al., IEICE Trans. D J89-D no. 11 (2006).

Vessels are what a morphological black top-hat of the green channel shows: dark, and narrower than the
structuring element. The mask is grown, and each of its pixels is filled from its surroundings.
Everything happens on a picture of at most `WORK_PX`; lengths are shares of its longer side.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from fundus_core.lit import MARGIN_LEVEL, brightest

Pixels = NDArray[np.uint8]
Mask = NDArray[np.uint8]  # (H, W), 0 or 1
Plane = NDArray[np.float32]

WORK_PX = 512
EDGE = 1 / 80  # of the field; light falls there as it does beside a vessel
WIDEST = 1 / 36  # a vein is up to 1/50 of a field of 30 degrees
GRAIN = 1 / 340  # standard deviation of the blur that takes noise away
SHORTEST = 1 / 16  # a vessel is long; haemorrhages and noise are not
GROWTH = 1 / 256  # on each side, for the soft edge of a vessel
LEAST = 0.02  # share of the light that a vessel takes away
ABOVE_BACKGROUND = 1.6  # times the upper quartile of the field, which is noise and choroid
REACHES = ((1 / 200, 1.0), (1 / 100, 0.02), (1 / 25, 0.0004))  # of the fill, and how much each counts


def erase_vessels(pixels: Pixels) -> Pixels:
    """Return (H, W, 3) uint8 RGB `pixels` with the vessels filled from their surroundings.

    Everything else, the dark margin too, stays as it is; a picture without vessels is returned itself.
    """
    small = _shrink(pixels)
    field = _field(small)
    vessels = _vessels(small[..., 1], field)
    if not vessels.any():
        return pixels
    fill = _surroundings(small, np.where(vessels, np.uint8(0), field))
    return _blend(pixels, fill, _blur(vessels.astype(np.float32), 1))


def _shrink(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    scale = min(1.0, WORK_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _field(small: Pixels) -> Mask:
    """Return the field of view without its edge; glow and text in the margin are too thin to count."""
    lit = np.pad((brightest(small) > MARGIN_LEVEL).astype(np.uint8), 1)
    edge = _round_element(2 * EDGE * max(small.shape))
    field = cv2.erode(cv2.morphologyEx(lit, cv2.MORPH_OPEN, edge), edge)
    return np.asarray(field[1:-1, 1:-1], np.uint8)


def _vessels(green: Pixels, field: Mask) -> Mask:
    """Return where vessels are, their soft edges included."""
    side = max(green.shape)
    soft = _blur(green.astype(np.float32), GRAIN * side)
    closed = _closed(soft, _round_element(WIDEST * side))
    absorbed = (closed - soft) / (closed + 8)  # a share of the light, so that shade makes no difference
    background = np.percentile(absorbed[field > 0], 75) if field.any() else 0.0
    dark = field & (absorbed > max(LEAST, ABOVE_BACKGROUND * background))
    long = _long(dark.astype(np.uint8), SHORTEST * side)
    return np.asarray(cv2.dilate(long, _round_element(2 * GROWTH * side)), np.uint8)


def _closed(plane: Plane, element: Mask) -> Plane:
    """Close dark gaps; beyond the picture it is dark, so that a field fading towards it is no gap."""
    closed = cv2.morphologyEx(
        plane, cv2.MORPH_CLOSE, element, borderType=cv2.BORDER_CONSTANT, borderValue=(0,)
    )
    return np.asarray(closed, np.float32)


def _long(mask: Mask, length_px: float) -> Mask:
    """Return the connected parts of `mask` that are at least so wide or high."""
    _, part, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    keep = boxes[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1) >= length_px
    keep[0] = False  # what is no part of the mask
    return np.asarray(keep[part], np.uint8)


def _surroundings(small: Pixels, known: Mask) -> Pixels:
    """Return a smooth picture of the `known` pixels: normalised convolution (Knutsson and Westin 1993).

    It is made at half the size, and a far pixel counts only where none is near. To the eye it is as good as
    `cv2.inpaint`, in a fifth of its time where vessels are many, and a mirrored picture is filled alike.
    """
    values = np.dstack([small * known[..., None], known]).astype(np.float32)
    half = (-(-values.shape[1] // 2), -(-values.shape[0] // 2))
    values = np.asarray(cv2.resize(values, half, interpolation=cv2.INTER_AREA), np.float32)
    side = max(half)
    total = np.zeros_like(values)
    for reach, weight in REACHES:
        total += weight * _blur(values, reach * side)
    return np.clip(total[..., :3] / (total[..., 3:] + 1e-9), 0, 255).astype(np.uint8)


def _blend(pixels: Pixels, fill: Pixels, cover: Plane) -> Pixels:
    """Return `fill` where `cover` (0-1) is, `pixels` elsewhere; both are stretched to the pixels' size."""
    size = (pixels.shape[1], pixels.shape[0])
    cover = np.asarray(cv2.resize(cover, size, interpolation=cv2.INTER_LINEAR), np.float32)
    fill = np.asarray(cv2.resize(fill, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.asarray(cv2.blendLinear(pixels, fill, 1 - cover, cover), np.uint8)


def _blur(plane: Plane, sigma: float) -> Plane:
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)


def _round_element(diameter: float) -> Mask:
    size = 2 * round(diameter / 2) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)
