"""Take the camera's light and colour out of a picture.

One table of methods, each (H, W, 3) uint8 RGB -> (H, W, 3) uint8 RGB.
"""

from collections.abc import Callable
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from fundus_core.lit import MARGIN_LEVEL, brightest

Pixels = NDArray[np.uint8]
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
    difference, lit = _difference(pixels)
    return _on_grey(GAIN * difference, lit)


def local_contrast(pixels: Pixels) -> Pixels:
    """Like `local_mean`, in units of the local standard deviation: haze and weak light become equal too."""
    difference, lit = _difference(pixels)
    variance = _local(difference**2, lit).mean(axis=2, keepdims=True)
    return _on_grey(SPREAD * difference / np.sqrt(variance + 4), lit)


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
    opened = cv2.medianBlur(lit, 5)  # a dark spot within is no margin
    return np.asarray(cv2.erode(opened, np.ones((2 * edge + 1,) * 2, np.uint8)), np.bool_)


def _difference(pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    lit = _lit(pixels).astype(np.float32)[..., None]
    values = pixels.astype(np.float32)
    return (values - _local(values, lit)) * lit, lit


def _local(values: NDArray[np.float32], lit: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the local mean of (H, W, 3) `values` over the lit field."""
    sigma = WINDOW * max(values.shape[:2])
    total = cv2.GaussianBlur(values * lit, (0, 0), sigma)
    weight = cv2.GaussianBlur(lit, (0, 0), sigma)
    return np.asarray(total / (weight[..., None] + 1e-3), np.float32)


def _on_grey(difference: NDArray[np.float32], lit: NDArray[np.float32]) -> Pixels:
    shown = np.clip(GREY + difference, 0, 255).astype(np.uint8)
    shown[lit[..., 0] == 0] = GREY
    return shown
