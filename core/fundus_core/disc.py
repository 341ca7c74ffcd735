"""Find the optic disc without labels: a bright round spot where the vessels converge.

Brightness and vessel convergence are the two classical cues (Hoover and Goldbaum, IEEE Trans. Med. Imaging
2003; Youssif et al., IEEE Trans. Med. Imaging 2008: vessels leave the disc upwards and downwards).
Everything happens on a small copy of the picture, whatever the camera delivers; lengths are its pixels.

How much of an eye a picture shows decides how large a disc is in it. So the disc is looked for as if the
picture were the whole field of 45 degrees, and as if it were a part of one; how bright the spots and how
strong the vessels are at these sizes tells the size. The rules are linear, fitted by `benchmarks/fields.py`
on parts of real photographs, without labels.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundus_core.lit import MARGIN_LEVEL, brightest
from fundus_core.overview import overview
from fundus_core.smoothing import Plane, blur

Pixels = NDArray[np.uint8]

SEARCH_PX = 128  # of the longer side of a whole field: twice as fine finds nearly always the same disc
DISC_RADIUS_PX = 8.5  # 6 to 7 degrees across, in a field of 45 degrees
CORNER = 0.04  # side of the corners that are looked at, as a share of the longer side
MOST = 5.0  # fields that a picture can be a part of
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
        field: diameter of a whole field of 45 degrees, in longer sides of the picture: 1 where it is all
            there, more where somebody cropped it, or the camera saw less of the eye.
    """

    x: float
    y: float
    field: float = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """The most disc-like place at one size: how bright the spot is, and how many vessels rise around it."""

    bright: float
    vessels: float
    disc: Disc


@dataclass(frozen=True, slots=True)
class SizeRule:
    """How the natural logarithm of `Disc.field` follows from the places at some sizes.

    Args:
        fields: the sizes, K of them, the first of them 1.
        bright: weight of each place's brightness, in shares of the largest of them (K,).
        vessels: weight of each place's vessels, in the same way (K,).
        start: what is added.
        least: a smaller logarithm counts as 0.
        beyond_px: how far the picture is mirrored around itself, for discs at its edge.
    """

    fields: tuple[float, ...]
    bright: tuple[float, ...]
    vessels: tuple[float, ...]
    start: float
    least: float
    beyond_px: int

    def places(self, small: Pixels) -> tuple[Place, ...]:
        """Return the place at each size in an overview."""
        return tuple(best_place(small, field, self.beyond_px) for field in self.fields)

    def field(self, places: tuple[Place, ...]) -> float:
        """Return the estimate of `Disc.field`."""
        weights = np.array([*self.bright, *self.vessels])
        logarithm = self.start + float(weights @ shares(places))
        return 1.0 if logarithm < self.least else min(MOST, math.exp(logarithm))


# By `benchmarks/fields.py`. Round: a whole field, or that of a camera that sees less, such as 30 degrees.
ROUND = SizeRule(
    fields=(1.0, 1.4),
    bright=(-0.475, 0.345),
    vessels=(-0.562, 0.279),
    start=0.589,
    least=0.2,
    beyond_px=0,
)
CROPPED = SizeRule(
    fields=(1.0, 1.4, 2.0, 2.8, 4.0),
    bright=(-0.173, -0.411, 0.057, 0.056, 0.075),
    vessels=(-0.241, -0.295, -0.36, 0.114, 0.515),
    start=1.314,
    least=0.0,
    beyond_px=15,
)


def find_disc(picture: Pixels) -> Disc:
    """Return the optic disc in (H, W, 3) uint8 RGB `picture`, whose dark margin is gone.

    A round field leaves the picture's corners dark; a picture without dark corners was cropped. There is
    always an answer; where no disc is to be seen it is the most disc-like place, and the middle of an
    all-dark picture.
    """
    return disc_of(overview(picture))


def disc_of(small: Pixels) -> Disc:
    """Return what `find_disc` does of a picture with this overview."""
    rule = rule_of(small)
    places = rule.places(small)
    field = rule.field(places)
    return places[0].disc if field == 1 else best_place(small, field, rule.beyond_px).disc


def rule_of(small: Pixels) -> SizeRule:
    """Return the rule for an overview: of round fields or of cropped pictures."""
    return ROUND if _has_dark_corners(small) else CROPPED


def shares(places: tuple[Place, ...]) -> NDArray[np.float64]:
    """Return the brightness of K places in shares of the largest, then their vessels (2 K,)."""
    found = np.array([[place.bright for place in places], [place.vessels for place in places]])
    return np.asarray((found / (found.max(axis=1, keepdims=True) + 1e-3)).ravel(), np.float64)


def _has_dark_corners(picture: Pixels) -> bool:
    side = max(1, round(CORNER * max(picture.shape[:2])))
    corners = [picture[rows, columns] for rows in np.s_[:side, -side:] for columns in np.s_[:side, -side:]]
    return all((brightest(corner) > MARGIN_LEVEL).mean() < 0.5 for corner in corners)


def best_place(picture: Pixels, field: float, beyond_px: int) -> Place:
    """Return the most disc-like place of a picture that shows 1 / `field` of a whole field."""
    seen = overview(picture, round(SEARCH_PX / field))
    height, width = seen.shape[:2]
    inner = np.s_[beyond_px : beyond_px + height, beyond_px : beyond_px + width]
    edges = (beyond_px,) * 4
    small = np.asarray(cv2.copyMakeBorder(seen, *edges, cv2.BORDER_REFLECT_101), np.float32)
    inside = _inside(small)
    if not inside.any():
        return Place(0.0, 0.0, Disc(0.5, 0.5))
    bright = np.clip(_bright_spot(small, inside), 0, None)[inner]
    vessels = _rising_vessels(small, inside)[inner]
    score = 0.6 * _unit(bright) + 0.4 * _unit(vessels) + 1.2 * _unit(bright) * _unit(vessels)
    away = (np.arange(height, dtype=np.float32) - height / 2) / (MIDLINE_SPREAD * max(height, width))
    score *= np.exp(-(away**2) / 2)[:, None] * (blur(inside, 3)[inner] > 0.35)
    x, y = _peak(blur(score, 1))
    at = round(y), round(x)
    disc = Disc((x + 0.5) / width, (y + 0.5) / height, field)
    return Place(float(bright[at]), float(vessels[at]), disc)


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


def _inside(small: Plane) -> Plane:
    """Return 1 well inside the lit field and 0 elsewhere: its edge is bright and dark by itself."""
    lit = np.pad((brightest(small) > MARGIN_LEVEL).astype(np.uint8), 2)
    lit = np.asarray(cv2.morphologyEx(lit, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)
    inner = cv2.erode(lit, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    return np.asarray(inner[2:-2, 2:-2], np.float32)


def _bright_spot(small: Plane, inside: Plane) -> Plane:
    """Return how much brighter than the ring around it a disc-sized spot is, whatever the illumination."""
    height, width = inside.shape
    half = (-(-width // 2), -(-height // 2))
    red, green, lit = (_resized(plane, half) for plane in (small[..., 0], small[..., 1], inside))
    bright = 0.7 * _standardised(green, lit) + 0.3 * _standardised(red, lit)
    spots = cv2.filter2D(np.clip(bright, -3, 4), -1, SPOT, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(cv2.resize(spots, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _resized(plane: Plane, size: tuple[int, int]) -> Plane:
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), np.float32)


def _rising_vessels(small: Plane, inside: Plane) -> Plane:
    """Return how many vessels run upwards and downwards around each place."""
    green = np.where(inside > 0, small[..., 1], _local_mean(small[..., 1], inside, 4))
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    dark = np.asarray(cv2.morphologyEx(green, cv2.MORPH_BLACKHAT, element), np.float32)
    dark *= np.asarray(cv2.erode(inside, np.ones((3, 3), np.uint8)), np.float32)
    vessels = np.clip(dark / np.sqrt(_local_mean(dark * dark, inside, 20) + 1), 0, 4)
    soft = blur(vessels, 1)
    across, along = cv2.Sobel(soft, -1, 1, 0) ** 2, cv2.Sobel(soft, -1, 0, 1) ** 2
    return blur(vessels * across / (across + along + 1e-3), 5, 11)


def _standardised(plane: Plane, inside: Plane) -> Plane:
    away = (plane - _local_mean(plane, inside, 7.5)) * inside
    return np.asarray(away / np.sqrt(_local_mean(away * away, inside, 10) + 4), np.float32)


def _local_mean(plane: Plane, inside: Plane, sigma: float) -> Plane:
    """Return the Gaussian mean of what lies inside (normalised convolution)."""
    return blur(plane * inside, sigma) / (blur(inside, sigma) + np.float32(1e-3))


def _unit(plane: Plane) -> Plane:
    return np.asarray(plane / (plane.max() + np.float32(1e-6)), np.float32)
