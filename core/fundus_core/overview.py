"""A small copy of a photograph, on which fields, discs and quality are looked for."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fundus_core.images import reduce

Pixels = NDArray[np.uint8]

OVERVIEW_PX = 256  # its longer side, whatever the camera delivers


def overview(picture: Pixels, longer_px: int = OVERVIEW_PX) -> Pixels:
    """Return (H, W, 3) uint8 RGB `picture` with a longer side of `longer_px`."""
    picture, _ = reduce(picture, 2 * longer_px)
    scale = longer_px / max(picture.shape[:2])
    height, width = (max(1, round(scale * side)) for side in picture.shape[:2])
    # By way of twice the size: as good as the mean of areas that are no whole pixels, in a fifth of its time.
    twice = cv2.resize(picture, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.resize(twice, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
