"""The part of a photograph that reaches the networks, and how places of it are hidden."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fundus_core.disc import find_disc
from fundus_core.lit import MARGIN_LEVEL, brightest
from fundus_core.preprocess import Pixels, PreprocessSpec, remove_margin

Cover = NDArray[np.float32]  # (G, G) over an area, 0 shown to 1 hidden

BLUR = 1 / 8  # standard deviation, as a share of the area's width: no vessel and no edge of a cup is left
COARSE_PX = 128  # width of an area in the picture that is blurred
MOVED = 0.05  # of the width: from here on another area is looked at


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle in pixels of a photograph; it may reach beyond. Round: only the ellipse in it is seen."""

    left_px: int
    top_px: int
    width_px: int
    height_px: int
    is_round: bool

    def is_near(self, other: "Area") -> bool:
        """Whether the networks get nearly the same part of a photograph."""
        places = np.array([(each.left_px, each.top_px, each.width_px) for each in (self, other)])
        return bool(np.abs(places[0] - places[1]).max() < MOVED * self.width_px)

    def seen(self, n_cells: int) -> NDArray[np.bool_]:
        """Return which cells of a map (G, G) of it reach the networks."""
        if not self.is_round:
            return np.ones((n_cells, n_cells), np.bool_)
        away = (np.arange(n_cells) + 0.5) / n_cells * 2 - 1
        return np.asarray(away**2 + away[:, None] ** 2 <= 1)

    def within(self, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return what it shares with a picture of `shape` (H, W, ...): slices of the picture, and of it."""
        rows, own_rows = _shared(self.top_px, self.height_px, shape[0])
        columns, own_columns = _shared(self.left_px, self.width_px, shape[1])
        return (rows, columns), (own_rows, own_columns)


def _shared(start: int, length: int, limit: int) -> tuple[slice, slice]:
    first, last = max(0, start), min(limit, start + length)
    return slice(first, last), slice(first - start, last - start)


def area_of(pixels: Pixels, spec: PreprocessSpec) -> Area:
    """Return the area of a photograph (H, W, 3), reduced to its size, that this preprocessing looks at."""
    field = remove_margin(pixels, spec.margin_threshold)
    top, left = divmod((field.ctypes.data - pixels.ctypes.data) // 3, pixels.shape[1])  # it is a view
    height, width = field.shape[:2]
    if spec.disc_crop:
        disc = find_disc(field)
        side = spec.centre_crop * spec.disc_crop * disc.field * max(height, width)
        left_px, top_px = round(left + disc.x * width - side / 2), round(top + disc.y * height - side / 2)
        return Area(left_px, top_px, max(1, round(side)), max(1, round(side)), is_round=True)
    rows, columns = max(1, round(height * spec.centre_crop)), max(1, round(width * spec.centre_crop))
    top, left = top + (height - rows) // 2, left + (width - columns) // 2
    return Area(left, top, columns, rows, is_round=False)


@dataclass(frozen=True)
class Subject:
    """A photograph whose places can be hidden.

    Args:
        pixels: (H, W, 3) uint8 RGB, reduced as preprocessing does.
        area: what of it reaches the networks.
        blurred: the part of `pixels` within the area, blurred: shown in place of what is hidden. A grey
            patch would be taken for a change of the light, or send the search for the disc elsewhere.
    """

    pixels: Pixels
    area: Area
    blurred: Pixels

    @classmethod
    def of(cls, pixels: Pixels, spec: PreprocessSpec) -> "Subject":
        """Find the area, and blur it."""
        area = area_of(pixels, spec)
        return cls(pixels, area, _blurred(pixels, area))

    def hidden(self, cover: Cover) -> Pixels:
        """Return the photograph with its places hidden as `cover` says."""
        shown, own = self.area.within(self.pixels.shape)
        size = (self.area.width_px, self.area.height_px)
        share = cv2.resize(cover, size, interpolation=cv2.INTER_LINEAR)[own][..., None]
        picture = self.pixels.copy()
        picture[shown] = np.rint(picture[shown] * (1 - share) + self.blurred * share)
        return picture


def _blurred(pixels: Pixels, area: Area) -> Pixels:
    """Return the local mean of what is lit, so that a dark margin does not run into the field."""
    scale, sigma_px = min(1.0, COARSE_PX / area.width_px), BLUR * area.width_px
    part, inner = _around(pixels, area, round(3 * sigma_px))
    coarse = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32)
    lit = (brightest(coarse) > MARGIN_LEVEL).astype(np.float32)[..., None]
    total = cv2.GaussianBlur(np.dstack([coarse * lit, lit]), (0, 0), sigma_px * scale)
    mean = cv2.resize(total[..., :3] / (total[..., 3:] + 1e-3), part.shape[1::-1])
    is_lit = (cv2.resize(cv2.erode(lit, np.ones((3, 3))), part.shape[1::-1]) >= 0.5)[..., None]
    return np.asarray(np.where(is_lit, np.rint(mean), part)[inner], np.uint8)


def _around(pixels: Pixels, area: Area, pad_px: int) -> tuple[Pixels, tuple[slice, slice]]:
    """Return the picture around an area, and where the area is in it."""
    wide = replace(
        area,
        left_px=area.left_px - pad_px,
        top_px=area.top_px - pad_px,
        width_px=area.width_px + 2 * pad_px,
        height_px=area.height_px + 2 * pad_px,
    )
    part = pixels[wide.within(pixels.shape)[0]]
    left_px, top_px = max(0, wide.left_px), max(0, wide.top_px)
    return part, replace(area, left_px=area.left_px - left_px, top_px=area.top_px - top_px).within(
        part.shape
    )[0]
