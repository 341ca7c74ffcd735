"""Is this a photograph of a fundus at all, and can anything be seen on it? Six measures and their limits.

Everything is measured on an overview, so that the measures hardly depend on a camera's pixels. Nothing here
changes a score. docs/quality.md says how often the limits are right, and what they don't see: slight or local
blur, reflections, a disc that lies outside, other eye diseases, and a smooth picture of another thing in a
fundus's colours.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundus_core.lit import MARGIN_LEVEL

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]  # (H, W)

INSIDE = np.ones((17, 17), np.uint8)  # keeps off the edge, where light falls as nowhere inside
SURROUND_PX = 33  # of the overview: side of the square whose mean is the local brightness
FUNDUS_HUE = (320, 75)  # degrees: from pink over red and orange to yellow-green


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured on one photograph, in the order of the vector on the wire.

    Args:
        brightness: 99th percentile (0-1) of the brightest channel.
        field_px: longer side of the lit field, in pixels of the file.
        roundness: share (0-1) that is lit of the smallest disc around the field, cut as the field is cut.
        saturation: mean over the field of HSV's saturation (0-1).
        fundus_colour: share (0-1) of the field that has a hue of a fundus; grey has.
        sharpness: contrast of thin dark details such as vessels, in per cent of the local brightness, times
            how strong details of this size are beside those twice as large: blur takes both.
    """

    brightness: float
    field_px: float
    roundness: float
    saturation: float
    fundus_colour: float
    sharpness: float

    @property
    def vector(self) -> NDArray[np.float32]:
        """The measures (Q,) as they go over the wire."""
        return np.array(astuple(self), np.float32)

    @classmethod
    def from_vector(cls, vector: NDArray[np.float32]) -> "Quality":
        """Return the quality behind a vector (Q,).

        Raises:
            ValueError: another number of measures, or one that is not finite.
        """
        if vector.shape != (len(MEASURES),) or not np.isfinite(vector).all():
            raise ValueError(f"quality: expected {len(MEASURES)} finite measures, got {vector.tolist()}")
        return cls(*vector.tolist())


MEASURES = tuple(field.name for field in fields(Quality))  # (Q,)


@dataclass(frozen=True, slots=True)
class Limits:
    """Between which measures a photograph is gradable, each in the unit of `Quality`.

    `benchmarks/quality.py` measures half of the real photographs; the limits are round numbers beyond what
    998 of 1000 of these reach. Two are set by reason: with fewer pixels than `min_field_px` a disc is under
    25 pixels wide, and the darkest real photograph has a brightness of 0.16.
    """

    min_brightness: float = 0.12
    min_field_px: float = 160
    min_roundness: float = 0.7
    min_saturation: float = 0.1
    min_fundus_colour: float = 0.35
    min_sharpness: float = 0.7
    max_sharpness: float = 16.0


LIMITS = Limits()


def ungradable(quality: Quality) -> str:
    """Return the codes and measures that make a photograph ungradable: "dark 0.02", or "" if there are none.

    dark: nearly black. tiny: too few pixels. no_field: nothing like a round field of view. grey: no colours,
    as in OCT and angiography. colour: not those of a fundus. blurred: no vessels to be seen. detail: finer
    than a retina's, as in text, faces and noise. Of a dark or tiny picture nothing else is said.
    """
    return "; ".join(_first(quality) or _others(quality))


def _first(quality: Quality) -> list[str]:
    if quality.brightness < LIMITS.min_brightness:
        return [f"dark {quality.brightness:.2f}"]
    return [f"tiny {quality.field_px:.0f}"] if quality.field_px < LIMITS.min_field_px else []


def _others(quality: Quality) -> Iterator[str]:
    if quality.roundness < LIMITS.min_roundness:
        yield f"no_field {quality.roundness:.2f}"
    if quality.saturation < LIMITS.min_saturation:
        yield f"grey {quality.saturation:.2f}"
    if quality.fundus_colour < LIMITS.min_fundus_colour:
        yield f"colour {quality.fundus_colour:.2f}"
    if quality.sharpness < LIMITS.min_sharpness:
        yield f"blurred {quality.sharpness:.2f}"
    if quality.sharpness > LIMITS.max_sharpness:
        yield f"detail {quality.sharpness:.2f}"


def measure(small: Pixels, field_px: int) -> Quality:
    """Return the quality of a photograph whose dark margin is gone, by its overview (H, W, 3) uint8 RGB.

    `field_px`: the longer side of what lies within the margin, in pixels of the file.
    """
    hue, saturation, light = _hsv(small)
    lit = _lit(light)
    inside = np.asarray(cv2.erode(lit, INSIDE, borderType=cv2.BORDER_CONSTANT, borderValue=(0,)), np.uint8)
    return Quality(
        brightness=_at_share(light[::4, ::4].reshape(-1), 0.99) / 255,
        field_px=field_px,
        roundness=_roundness(np.ascontiguousarray(lit[::2, ::2])),
        saturation=_mean(saturation, inside) / 255,
        fundus_colour=_mean(_has_fundus_hue(hue), inside),
        sharpness=_sharpness(small[..., 1].astype(np.float32), inside),
    )


def _hsv(pixels: Pixels) -> tuple[Pixels, Pixels, Pixels]:
    hue, saturation, light = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))
    return np.asarray(hue, np.uint8), np.asarray(saturation, np.uint8), np.asarray(light, np.uint8)


def _lit(light: Pixels) -> Pixels:
    """Return 1 where a photograph is lit, without specks, and 0 elsewhere."""
    lit = (light > MARGIN_LEVEL).astype(np.uint8)
    return np.asarray(cv2.morphologyEx(lit, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)


def _at_share(values: NDArray[Any], share: float) -> float:
    """Return the quantile of (M,) values, as the nearest of them: faster than an interpolated one."""
    index = round(share * (len(values) - 1))
    return float(np.partition(values, index)[index])


def _mean(plane: Pixels, inside: Pixels) -> float:
    return float(cv2.mean(plane, inside)[0])


def _has_fundus_hue(hue: Pixels) -> Pixels:
    """Return 1 where OpenCV's hue (H, W), which is half of the degrees, is one of a fundus; grey has 0."""
    low, high = FUNDUS_HUE
    return np.asarray((hue >= low // 2) | (hue <= high // 2), np.uint8)


def _roundness(lit: Pixels) -> float:
    contours = cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not contours:
        return 0.0
    largest = max(contours, key=cv2.contourArea)
    x, y, width, height = cv2.boundingRect(largest)
    (centre_x, centre_y), radius = cv2.minEnclosingCircle(largest)
    columns, rows = np.arange(x, x + width) - centre_x, np.arange(y, y + height) - centre_y
    disc = columns**2 + rows[:, None] ** 2 <= radius**2
    return float(lit[y : y + height, x : x + width][disc].mean())


def _sharpness(green: Plane, inside: Pixels) -> float:
    """Return a focus measure of the Laplacian family (Pertuz et al., Pattern Recognition 2013)."""
    half = np.asarray(cv2.pyrDown(green), np.float32)
    fine, coarse = _details(green, inside), _details(half, inside[::2, ::2])
    if not coarse.size:
        return 0.0
    dark = -_at_share(fine[::4], 0.01)
    return 100 * dark * float(fine.std()) / max(float(coarse.std()), 1e-6)


def _details(green: Plane, inside: Pixels) -> Plane:
    """Return how far details of 2 to 4 pixels stand out of what is around them (M,), as a share of it."""
    detail = cv2.GaussianBlur(green, (0, 0), 1) - cv2.GaussianBlur(green, (0, 0), 2)
    surround = cv2.blur(green, (SURROUND_PX, SURROUND_PX)) + MARGIN_LEVEL
    return np.asarray((detail / surround)[inside > 0], np.float32)
