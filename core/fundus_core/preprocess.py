"""uint8 RGB photograph -> square uint8 pixels for the networks. Training and serving both call this."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from fundus_core.disc import Disc, disc_of
from fundus_core.errors import RecipeError
from fundus_core.illumination import METHODS, Illumination
from fundus_core.images import DEFAULT_LIMITS, ImageLimits, decode_reduced, reduce
from fundus_core.lit import brightest
from fundus_core.overview import OVERVIEW_PX, overview
from fundus_core.quality import Quality, measure
from fundus_core.vessels import erase_vessels

Pixels = NDArray[np.uint8]

FIRST_REVISION = {"revision": 1}  # of bundles that name none
REVISION = 2  # of what the code below does to a photograph: that of tests/golden/preprocess.json
LIT_SHARE = 0.01  # of a row or column; less is margin noise or a printed date
SCAN_PX = 512  # the margin is looked for on about this many rows and columns
FINER = 1.5  # than its result: what a photograph is reduced to at most
MOST_CUT_PX = 4096  # side of what is cut out: of a long strip it could be many times the picture


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """What happens to a photograph before a network sees it.

    Args:
        size_px: side of the square result.
        margin_threshold: grey level (0-255) up to which a pixel counts as dark margin.
        disc_crop: diameter of the circle kept around the optic disc, as a share (0-1] of the field's; None
            keeps the whole field. How near the disc lies to the field's edge depends on how the eye was
            photographed, and that on why: a square would show more of that edge.
        centre_crop: share (0-1] of width and height kept around the centre, after the margin is gone.
        erase_vessels: fill the vessels from their surroundings.
        illumination: how the camera's light and colour are taken out, after the resize.
        revision: of the code of these steps; a bundle keeps that which its thresholds were fixed with.
    """

    size_px: int = 512
    margin_threshold: int = 16
    disc_crop: float | None = None
    centre_crop: float = 1.0
    erase_vessels: bool = False
    illumination: Illumination = "none"
    revision: int = REVISION

    def __post_init__(self) -> None:
        if not 16 <= self.size_px <= 4096:
            raise RecipeError(f"size_px is {self.size_px}; choose 16 to 4096.")
        if not 0 <= self.margin_threshold <= 254:
            raise RecipeError(f"margin_threshold is {self.margin_threshold}; choose 0 to 254.")
        if not 0 < self.centre_crop <= 1:
            raise RecipeError(f"centre_crop is {self.centre_crop}; choose a share above 0, up to 1.")
        if self.disc_crop is not None and not 0 < self.disc_crop <= 1:
            raise RecipeError(f"disc_crop is {self.disc_crop}; choose a share above 0, up to 1.")
        if self.revision != REVISION:
            hint = "Export the ensemble again, or use the version of fundus-triton that made it."
            raise RecipeError(f"revision is {self.revision}, and preprocessing here is of {REVISION}. {hint}")

    @property
    def least_px(self) -> int:
        """The shorter side that a photograph keeps when it is reduced, as soon as it is decoded.

        What is cut out of it stays `FINER` than the result, and the photograph twice as fine as the overview.
        """
        share = self.centre_crop * (self.disc_crop or 1)
        return max(2 * OVERVIEW_PX, math.ceil(FINER * self.size_px / share))


def preprocess_encoded(data: bytes, spec: PreprocessSpec, limits: ImageLimits = DEFAULT_LIMITS) -> Pixels:
    """Return what `preprocess` makes of one encoded file: (size_px, size_px, 3) uint8 RGB."""
    return preprocess(decode_reduced(data, limits, spec.least_px)[0], spec)


def see(data: bytes, spec: PreprocessSpec, limits: ImageLimits = DEFAULT_LIMITS) -> tuple[Pixels, Quality]:
    """Return what the networks get of one encoded file, and how good a photograph it is."""
    pixels, times = decode_reduced(data, limits, spec.least_px)
    field = remove_margin(pixels, spec.margin_threshold)
    small = overview(field)
    return _last(_field_steps(field, small, spec)), measure(small, times * max(field.shape[:2]))


def preprocess(pixels: Pixels, spec: PreprocessSpec) -> Pixels:
    """Return (size_px, size_px, 3) uint8 RGB: the last of the `preprocess_steps`."""
    return _last(preprocess_steps(pixels, spec))


def preprocess_steps(pixels: Pixels, spec: PreprocessSpec) -> Iterator[tuple[str, Pixels]]:
    """Yield the name and the picture of each step that `spec` asks for, from the original on."""
    yield "original", pixels
    pixels, _ = reduce(pixels, spec.least_px)
    field = remove_margin(pixels, spec.margin_threshold)
    yield from _field_steps(field, overview(field) if spec.disc_crop else field, spec)


def _field_steps(pixels: Pixels, small: Pixels, spec: PreprocessSpec) -> Iterator[tuple[str, Pixels]]:
    """Yield the steps from the field on; `small` is its overview, where the disc is looked for."""
    yield "margin removed", pixels
    if spec.erase_vessels:
        pixels = erase_vessels(pixels)
        yield "vessels erased", pixels
    if spec.disc_crop:
        pixels = crop_around(pixels, disc_of(small), spec.disc_crop, spec.size_px)
        yield "disc crop", pixels
    if spec.centre_crop < 1:
        pixels = crop_centre(pixels, spec.centre_crop)
        yield "centre crop", pixels
    size = (spec.size_px, spec.size_px)
    pixels = np.asarray(cv2.resize(pad_to_square(pixels), size, interpolation=cv2.INTER_AREA), np.uint8)
    yield "resized", pixels
    if spec.disc_crop:
        pixels = keep_circle(pixels)
        yield "circle", pixels
    if spec.illumination != "none":
        yield spec.illumination, METHODS[spec.illumination](pixels)


def _last(steps: Iterator[tuple[str, Pixels]]) -> Pixels:
    return deque(steps, maxlen=1).pop()[1]


def remove_margin(pixels: Pixels, threshold: int) -> Pixels:
    """Return the part of (H, W, 3) `pixels` inside the dark margin; an all-dark image stays whole.

    A row or column belongs to the picture when at least `LIT_SHARE` of it is brighter than `threshold`.
    """
    step = max(1, round(min(pixels.shape[:2]) / SCAN_PX))
    lit = np.asarray(brightest(pixels[::step])[:, ::step] > threshold, np.float32)
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


def crop_around(pixels: Pixels, disc: Disc, share: float, multiple_px: int = 1) -> Pixels:
    """Return a square around `disc` whose side is this share of the field; black beyond the picture.

    It is cut between the pixels: the disc has its place in the result whatever the camera's pixels are. The
    square has the next larger multiple of `multiple_px` pixels a side, so that a resize takes whole ones, up
    to `MOST_CUT_PX`.
    """
    height, width = pixels.shape[:2]
    side = share * disc.field * max(height, width)
    most = max(1, MOST_CUT_PX // multiple_px)
    side_px = multiple_px * min(most, max(1, math.ceil(side / multiple_px)))
    scale = side / side_px
    left, top = ((scale - 1 - side) / 2 + centre for centre in (disc.x * width, disc.y * height))
    placed = np.array([[scale, 0, left], [0, scale, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(pixels, placed, (side_px, side_px), flags=flags), np.uint8)


def keep_circle(pixels: Pixels) -> Pixels:
    """Return the square (S, S, 3) with black beyond the circle that it holds."""
    return pixels * _circle(len(pixels))


@lru_cache(maxsize=2)  # pictures of one run have one size
def _circle(side: int) -> Pixels:
    """Return 1 within the circle of a square (S, S, 1), 0 beyond."""
    away = np.arange(side) - (side - 1) / 2
    inside = away[:, None] ** 2 + away[None] ** 2 <= (side / 2) ** 2
    return inside[..., None].astype(np.uint8)


def pad_to_square(pixels: Pixels) -> Pixels:
    """Return `pixels` with black bars that make it square, so that a resize keeps circles round."""
    height, width = pixels.shape[:2]
    if height == width:
        return pixels
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    borders = (top, side - height - top, left, side - width - left)
    return np.asarray(
        cv2.copyMakeBorder(pixels, *borders, cv2.BORDER_CONSTANT, value=(0, 0, 0)), dtype=np.uint8
    )
