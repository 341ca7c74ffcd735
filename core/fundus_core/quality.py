"""Is this a photograph of a fundus at all, and can anything be seen on it? Six measures and their limits.

Everything is measured on a copy whose longer side is `FIELD_PX`, so that the measures hardly depend on a
camera's pixels. Nothing here changes a score. docs/quality.md says how often the
limits are right; what they don't see: small or local blur, a disc outside the field or behind a reflection,
an eye after an operation, and a smooth picture of another thing in a fundus's colours.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from fundus_core.lit import MARGIN_LEVEL

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]  # (H, W)

FIELD_PX = 256
INSIDE = np.ones((17, 17), np.uint8)  # of FIELD_PX: keeps off the edge, where light falls as nowhere inside
SURROUND_PX = 33  # of FIELD_PX: side of the square whose mean is the local brightness
FUNDUS_HUE = (340, 75)  # degrees, from pink over red and orange to yellow-green


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured on one photograph, in the order of the vector on the wire.

    Args:
        brightness: 99th percentile (0-1) of the brightest channel.
        field_px: longer side of the lit field, in pixels of the file.
        roundness: share (0-1) that is lit of the smallest disc around the field, cut as the field is cut.
        saturation: median over the field of HSV's saturation (0-1).
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
            ValueError: another number of measures.
        """
        if vector.shape != (N_MEASURES,):
            raise ValueError(f"quality: expected shape {(N_MEASURES,)}, got {vector.shape}")
        return cls(*vector.tolist())


N_MEASURES = len(fields(Quality))  # Q


@dataclass(frozen=True, slots=True)
class Limits:
    """Between which measures a photograph is gradable, each in the unit of `Quality`.

    They lie beyond what nearly all of one half of the photographs of `benchmarks/quality.py` reach; that
    command counts the flags in the other half.
    """

    min_brightness: float = 0.12
    min_field_px: float = 160
    min_roundness: float = 0.7
    min_saturation: float = 0.1
    min_fundus_colour: float = 0.4
    min_sharpness: float = 0.7
    max_sharpness: float = 16.0


LIMITS = Limits()


def ungradable(quality: Quality, limits: Limits = LIMITS) -> str:
    """Return the codes and measures that make a photograph ungradable: "dark 0.02", or "" if there are none.

    dark: nearly black. tiny: too few pixels. no_field: nothing like a round field of view. grey: no colours,
    as in OCT and angiography. colour: not those of a fundus. blurred: no vessels to be seen. detail: finer
    than a retina's, as in text, faces and noise. Of a dark or tiny picture nothing else is said.
    """
    return "; ".join(_first(quality, limits) or _others(quality, limits))


def _first(quality: Quality, limits: Limits) -> list[str]:
    if quality.brightness < limits.min_brightness:
        return [f"dark {quality.brightness:.2f}"]
    return [f"tiny {quality.field_px:.0f}"] if quality.field_px < limits.min_field_px else []


def _others(quality: Quality, limits: Limits) -> Iterator[str]:
    if quality.roundness < limits.min_roundness:
        yield f"no_field {quality.roundness:.2f}"
    if quality.saturation < limits.min_saturation:
        yield f"grey {quality.saturation:.2f}"
    if quality.fundus_colour < limits.min_fundus_colour:
        yield f"colour {quality.fundus_colour:.2f}"
    if quality.sharpness < limits.min_sharpness:
        yield f"blurred {quality.sharpness:.1f}"
    if quality.sharpness > limits.max_sharpness:
        yield f"detail {quality.sharpness:.1f}"


def measure(field: Pixels) -> Quality:
    """Return the quality of one photograph, (H, W, 3) uint8 RGB, whose dark margin is gone."""
    small = _small(field)
    hue, saturation, light = cv2.split(cv2.cvtColor(small, cv2.COLOR_RGB2HSV))
    lit = cv2.morphologyEx((light > MARGIN_LEVEL).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    inside = cv2.erode(lit, INSIDE, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return Quality(
        brightness=float(np.percentile(light[::4, ::4], 99)) / 255,
        field_px=max(field.shape[:2]),
        roundness=_roundness(lit),
        saturation=_mean(saturation, inside) / 255,
        fundus_colour=_mean(_has_fundus_hue(hue), inside),
        sharpness=_sharpness(small[..., 1].astype(np.float32), inside),
    )


def _small(field: Pixels) -> Pixels:
    """Return `field` with a longer side of FIELD_PX; by way of twice as much, which is fast."""
    height, width = (2 * max(1, round(FIELD_PX * side / max(field.shape[:2]))) for side in field.shape[:2])
    twice = cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.resize(twice, (width // 2, height // 2), interpolation=cv2.INTER_AREA), np.uint8)


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
    fine, coarse = _details(green, inside), _details(cv2.pyrDown(green), inside[::2, ::2])
    if not coarse.size:
        return 0.0
    dark = -float(np.percentile(fine[::4], 1))
    return 100 * dark * float(fine.std()) / max(float(coarse.std()), 1e-6)


def _details(green: Plane, inside: Pixels) -> Plane:
    """Return how far details of 2 to 4 pixels stand out of what is around them (M,), as a share of it."""
    detail = cv2.GaussianBlur(green, (0, 0), 1) - cv2.GaussianBlur(green, (0, 0), 2)
    surround = cv2.blur(green, (SURROUND_PX, SURROUND_PX)) + MARGIN_LEVEL
    return np.asarray((detail / surround)[inside > 0], np.float32)
