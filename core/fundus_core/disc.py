"""Find the optic disc without labels: a bright round spot where the vessels converge.

Brightness and vessel convergence are the two classical cues (Hoover and Goldbaum, IEEE Trans. Med. Imaging
2003; Youssif et al., IEEE Trans. Med. Imaging 2008: vessels leave the disc upwards and downwards).
Everything happens on an overview of the picture, whatever the camera delivers; lengths are its pixels.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundus_core.lit import MARGIN_LEVEL, brightest
from fundus_core.overview import OVERVIEW_PX, overview

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]  # (H, W)

DISC_RADIUS_PX = 17  # 6 to 7 degrees across, in a field of 45 degrees that is as wide as the overview
COARSE = 4
CORNER = 0.04  # side of the corners that are looked at, as a share of the longer side
FIELDS = {1.0: 0.7, 1.4: 1.0, 2.0: 1.0, 2.8: 1.0, 4.0: 1.0}  # what is tried, and how much a spot counts there
BEYOND_PX = 30
MIDLINE_SPREAD = 0.22  # standard deviation of the disc's height around the middle, as a share of the side


def _spot_kernel(radius_px: float) -> Plane:
    """Return a kernel that gives the mean of a disc less that of the ring around it."""
    reach = int(2 * radius_px) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.hypot(x, y) / radius_px
    spot, ring = distance <= 1, (distance > 1.25) & (distance <= 2)
    return np.asarray(spot / spot.sum() - ring / ring.sum(), np.float32)


SPOT = _spot_kernel(DISC_RADIUS_PX / 2)  # bright spots are looked for at half the size: they are smooth


@dataclass(frozen=True, slots=True)
class Disc:
    """Where the optic disc is, and how much of the eye the picture shows.

    Args:
        x: centre, as a share (0-1) of the picture's width.
        y: centre, as a share of its height.
        field: diameter of the whole field, in longer sides of the picture: 1 where it is all there, more
            where somebody cropped it.
    """

    x: float
    y: float
    field: float = 1.0


def find_disc(picture: Pixels) -> Disc:
    """Return the optic disc in (H, W, 3) uint8 RGB `picture`, whose dark margin is gone.

    A round field leaves the picture's corners dark, and then the size of a disc is known. A picture without
    dark corners was cropped: the size at which a spot stands out most is taken. There is always an answer;
    where no disc is to be seen it is the most disc-like place, and the middle of an all-dark picture.
    """
    small = overview(picture)
    if _has_dark_corners(small):
        return _search(small, 1.0, 0)[1]
    found = [(weight, _search(small, field, BEYOND_PX)) for field, weight in FIELDS.items()]
    return max(found, key=lambda each: each[0] * each[1][0])[1][1]


def _has_dark_corners(picture: Pixels) -> bool:
    side = max(1, round(CORNER * max(picture.shape[:2])))
    corners = [picture[rows, columns] for rows in np.s_[:side, -side:] for columns in np.s_[:side, -side:]]
    return all((brightest(corner) > MARGIN_LEVEL).mean() < 0.5 for corner in corners)


def _search(picture: Pixels, field: float, beyond_px: int) -> tuple[float, Disc]:
    """Return how bright the best place is, and the place; around the picture, `beyond_px` are mirrored."""
    small = _shrink(picture, OVERVIEW_PX / field)
    height, width = small.shape[:2]
    inner = np.s_[beyond_px : beyond_px + height, beyond_px : beyond_px + width]
    edges = (beyond_px,) * 4
    small = np.asarray(cv2.copyMakeBorder(small, *edges, cv2.BORDER_REFLECT_101), np.float32)
    inside = _inside(small)
    if not inside.any():
        return 0.0, Disc(0.5, 0.5)
    bright = np.clip(_bright_spot(small, inside), 0, None)[inner]
    vessels = _rising_vessels(small, inside)[inner]
    score = 0.6 * _unit(bright) + 0.4 * _unit(vessels) + 1.2 * _unit(bright) * _unit(vessels)
    away = (np.arange(height, dtype=np.float32) - height / 2) / (MIDLINE_SPREAD * max(height, width))
    score *= np.exp(-(away**2) / 2)[:, None] * (_blur(inside, 6)[inner] > 0.35)
    x, y = _peak(_blur(score, 2))
    return float(bright[round(y), round(x)]), Disc((x + 0.5) / width, (y + 0.5) / height, field)


def _peak(score: Plane) -> tuple[float, float]:
    """Return the column and row of the highest place, between pixels: at the top of a parabola each way."""
    row, column = np.unravel_index(int(np.argmax(score)), score.shape)
    return _top(score[row], int(column)), _top(score[:, column], int(row))


def _top(line: NDArray[np.float32], place: int) -> float:
    if not 0 < place < len(line) - 1:
        return float(place)
    before, peak, after = map(float, line[place - 1 : place + 2])
    bend = before - 2 * peak + after
    return place + 0.5 * (before - after) / bend if bend < 0 else float(place)


def _shrink(picture: Pixels, longer_px: float) -> Plane:
    height, width = picture.shape[:2]
    scale = longer_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return _resized(picture, size)


def _inside(small: Plane) -> Plane:
    """Return 1 well inside the lit field and 0 elsewhere: its edge is bright and dark by itself."""
    lit = np.pad((brightest(small) > MARGIN_LEVEL).astype(np.uint8), 4)
    lit = np.asarray(cv2.morphologyEx(lit, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)), np.uint8)
    inner = cv2.erode(lit, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    return np.asarray(inner[4:-4, 4:-4], np.float32)


def _bright_spot(small: Plane, inside: Plane) -> Plane:
    """Return how much brighter than the ring around it a disc-sized spot is, whatever the illumination."""
    height, width = inside.shape
    half = (-(-width // 2), -(-height // 2))
    red, green, lit = (_resized(plane, half) for plane in (small[..., 0], small[..., 1], inside))
    bright = 0.7 * _standardised(green, lit) + 0.3 * _standardised(red, lit)
    spots = cv2.filter2D(np.clip(bright, -3, 4), -1, SPOT, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(cv2.resize(spots, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _resized(picture: NDArray[Any], size: tuple[int, int]) -> Plane:
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)


def _rising_vessels(small: Plane, inside: Plane) -> Plane:
    """Return how many vessels run upwards and downwards around each place."""
    green = np.where(inside > 0, _local_mean(small[..., 1], inside, 1), _local_mean(small[..., 1], inside, 8))
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    dark = np.asarray(cv2.morphologyEx(green, cv2.MORPH_BLACKHAT, element), np.float32)
    dark *= np.asarray(cv2.erode(inside, np.ones((5, 5), np.uint8)), np.float32)
    vessels = np.clip(dark / np.sqrt(_local_mean(dark * dark, inside, 40) + 1), 0, 4)
    soft = _blur(vessels, 1)
    across, along = cv2.Sobel(soft, -1, 1, 0) ** 2, cv2.Sobel(soft, -1, 0, 1) ** 2
    return _blur(vessels * across / (across + along + 1e-3), 10, 22)


def _standardised(plane: Plane, inside: Plane) -> Plane:
    away = (plane - _local_mean(plane, inside, 15)) * inside
    return np.asarray(away / np.sqrt(_local_mean(away * away, inside, 20) + 4), np.float32)


def _local_mean(plane: Plane, inside: Plane, sigma: float) -> Plane:
    """Return the Gaussian mean of what lies inside (normalised convolution)."""
    return _blur(plane * inside, sigma) / (_blur(inside, sigma) + np.float32(1e-3))


def _blur(plane: Plane, sigma: float, sigma_y: float = 0) -> Plane:
    """Return the Gaussian mean; a wide one on a quarter of the rows and columns, as good and faster."""
    if sigma < COARSE:
        return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma, sigmaY=sigma_y), np.float32)
    height, width = plane.shape
    coarse = cv2.resize(plane, (-(-width // COARSE), -(-height // COARSE)), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(coarse, (0, 0), sigma / COARSE, sigmaY=sigma_y / COARSE)
    return np.asarray(cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _unit(plane: Plane) -> Plane:
    return np.asarray(plane / (plane.max() + np.float32(1e-6)), np.float32)
