"""Take the camera's light and colour out of a picture.

One table of methods, each (H, W, 3) uint8 RGB -> (H, W, 3) uint8 RGB.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from fundus_core.lit import MARGIN_LEVEL, brightest
from fundus_core.smoothing import blur

Pixels = NDArray[np.uint8]
Planes = NDArray[np.float32]  # (N, H, W)
Illumination = Literal["none", "grey_world", "clahe", "local_mean", "local_contrast"]
ILLUMINATIONS: tuple[Illumination, ...] = get_args(Illumination)

GREY = 128
EDGE = 1 / 80  # of the side
WINDOW = 1 / 6  # standard deviation of the local mean, as a share of the side
GAIN = 2  # of a difference to the local mean
SPREAD = 36  # grey levels that one local standard deviation becomes


def grey_world(pixels: Pixels) -> Pixels:
    """Give each channel the mean `GREY` within the lit field (Buchsbaum, J. Franklin Inst. 1980)."""
    lit = _lit(pixels)
    if not lit.any():
        return pixels
    gain = GREY / np.maximum(pixels[lit].mean(axis=0), 1)
    return np.asarray(np.clip(pixels * gain, 0, 255), np.uint8)


def clahe(pixels: Pixels) -> Pixels:
    """Equalise lightness within tiles, with limited contrast (Zuiderveld, Graphics Gems IV 1994)."""
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lab[..., 0])
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)


def local_mean(pixels: Pixels) -> Pixels:
    """Show differences to the local mean, on grey (B. Graham, Kaggle diabetic retinopathy report 2015).

    The mean is that of the lit field alone, so the field's edge casts no halo; outside all is `GREY`.
    """
    field = _Field.of(pixels)
    return field.on_grey(GAIN * field.difference())


def local_contrast(pixels: Pixels) -> Pixels:
    """Like `local_mean`, in units of the local standard deviation: haze and weak light become equal too."""
    field = _Field.of(pixels)
    difference = field.difference()
    variance = field.local_mean((difference**2).mean(axis=0, keepdims=True))
    return field.on_grey(difference * (SPREAD / np.sqrt(variance + 4)))


METHODS: dict[Illumination, Callable[[Pixels], Pixels]] = {
    "grey_world": grey_world,
    "clahe": clahe,
    "local_mean": local_mean,
    "local_contrast": local_contrast,
}


def _lit(pixels: Pixels) -> NDArray[np.bool_]:
    """Return where the lit field is, without its edge: light falls there, as it does nowhere inside."""
    lit = (brightest(pixels) > MARGIN_LEVEL).astype(np.uint8)
    edge = round(EDGE * max(lit.shape))
    around = cv2.blur(255 * lit, (5, 5), borderType=cv2.BORDER_REPLICATE)
    most = np.asarray(around > 127, np.uint8)  # a dark spot within is no margin
    return np.asarray(cv2.erode(most, np.ones((2 * edge + 1,) * 2, np.uint8)), np.bool_)


@dataclass(frozen=True)
class _Field:
    """The planes (3, H, W) of a picture; where it is lit, and how much of what is around is (1, H, W)."""

    planes: Planes
    lit: Planes
    around: Planes

    @classmethod
    def of(cls, pixels: Pixels) -> "_Field":
        lit = _lit(pixels).astype(np.float32)[None]
        return cls(np.stack(cv2.split(pixels)).astype(np.float32), lit, _blur(lit))

    def local_mean(self, planes: Planes) -> Planes:
        """Return the local mean of planes (N, H, W) over the lit field."""
        return _blur(planes * self.lit) / (self.around + np.float32(1e-3))

    def difference(self) -> Planes:
        return (self.planes - self.local_mean(self.planes)) * self.lit

    def on_grey(self, difference: Planes) -> Pixels:
        shown = np.clip(GREY + difference, 0, 255).astype(np.uint8)
        shown[:, self.lit[0] == 0] = GREY
        return np.ascontiguousarray(np.moveaxis(shown, 0, 2))


def _blur(planes: Planes) -> Planes:
    """Return the Gaussian mean of planes (N, H, W)."""
    sigma = WINDOW * max(planes.shape[1:])
    return np.stack([blur(plane, sigma) for plane in planes])
