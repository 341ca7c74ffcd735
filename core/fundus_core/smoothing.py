"""Gaussian means that are fast however wide they are."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]  # (H, W)

LEAST_SIGMA = 2  # in pixels of the smaller copy: narrower, its pixels would show


def blur(plane: Plane, sigma: float, sigma_y: float = 0) -> Plane:
    """Return the Gaussian mean (H, W); a wide one is made on a smaller copy, as good and faster.

    `sigma` counts in pixels; so does `sigma_y`, the wider one, where rows are averaged over another length.
    """
    times = 2 ** max(0, math.floor(math.log2(sigma / LEAST_SIGMA)))
    if times == 1:
        return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma, sigmaY=sigma_y), np.float32)
    height, width = plane.shape
    few = cv2.resize(plane, (-(-width // times), -(-height // times)), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(few, (0, 0), sigma / times, None, sigma_y / times, cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
