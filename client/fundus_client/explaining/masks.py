"""Masks that hide about half of an area at random, and the map that answers to masked pictures give: RISE.

Petsiuk, Das, Saenko: RISE, Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

MAP_CELLS = 64  # G: side of a map
PATCHES = 7  # across an area
HIDDEN = 0.5  # share of the patches

Covers = NDArray[np.float32]  # (N, G, G), 0 shown to 1 hidden
Heat = NDArray[np.float64]  # (G, G)
Answers = NDArray[np.float64]  # (N,) probabilities


def random_covers(n_masks: int, seed: int = 0) -> Covers:
    """Return masks (N, G, G): soft patches on a grid, each mask's grid shifted at random."""
    rng = np.random.default_rng(seed)
    return np.stack([_random_cover(rng) for _ in range(n_masks)])


def _random_cover(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return one mask (G, G); the grid has two patches more than fit, for the shift and the blend."""
    patches = (rng.random((PATCHES + 2, PATCHES + 2)) < HIDDEN).astype(np.float32)
    line = (np.arange(MAP_CELLS, dtype=np.float32) + 0.5) * PATCHES / MAP_CELLS
    x, y = np.meshgrid(*(line + np.float32(shift) for shift in rng.random(2)))
    return np.asarray(cv2.remap(patches, x, y, cv2.INTER_LINEAR), np.float32)


def heat_map(answers: Answers, covers: Covers) -> Heat:
    """Return what each place adds to the probability (G, G).

    It is the mean answer to the pictures that show the place, less that to those that hide it: above 0
    where the place speaks for the label.
    """
    weights = covers.astype(np.float64)
    return _mean(answers, 1 - weights) - _mean(answers, weights)


def stability(answers: Answers, covers: Covers, seen: NDArray[np.bool_]) -> float:
    """Return how alike two maps would be that are made of as many masks each: their correlation, -1 to 1.

    Estimated from the two halves of these (Spearman-Brown). Only the places that are `seen` (G, G) count.
    """
    even, odd = (heat_map(answers[half::2], covers[half::2])[seen] for half in (0, 1))
    half = float(np.corrcoef(even, odd)[0, 1])
    return 2 * half / (1 + half) if half > 0 else half


def _mean(answers: Answers, weights: Heat) -> Heat:
    return np.asarray(np.tensordot(answers, weights, 1) / weights.sum(axis=0).clip(1e-9), np.float64)
