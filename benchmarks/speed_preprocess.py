"""Preprocessing alone, on one thread, for benchmarks/speed.py: from encoded bytes to what the folds get."""

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from speed_ensembles import FP32, REFERENCE, Ensemble, side_name
from speed_runtimes import one_thread

from fundus_core.ensemble import PIXELS, PROBABILITY
from fundus_core.images import decode
from fundus_core.preprocess import Pixels, PreprocessSpec, preprocess, preprocess_encoded, see

SEE = "preprocessing and measures of quality, as served"
OURS = "preprocessing"
OTHER = "preprocessing, decoded by simplejpeg"
FULL = "full decode, then the same steps"
RESIZE = "full decode, then only a resize"

Way = Callable[[bytes], Pixels]


def ways(spec: PreprocessSpec) -> dict[str, Way]:
    """Return each way from a file's bytes to pixels (S, S, 3)."""
    others: dict[str, Way] = {}
    if find_spec("simplejpeg"):
        others[OTHER] = lambda data: preprocess(by_simplejpeg(data, spec.least_px), spec)
    return {
        SEE: lambda data: see(data, spec)[0],
        OURS: lambda data: preprocess_encoded(data, spec),
        **others,
        FULL: lambda data: preprocess(decode(data), spec),
        RESIZE: lambda data: resized(decode(data), spec.size_px),
    }


def by_simplejpeg(data: bytes, least_px: int) -> Pixels:
    """Return (H, W, 3), at the smallest size of which the shorter side has `least_px`."""
    import simplejpeg

    return np.asarray(simplejpeg.decode_jpeg(data, min_height=least_px, min_width=least_px), np.uint8)


def resized(pixels: Pixels, size_px: int) -> Pixels:
    """Return (size_px, size_px, 3): means over areas."""
    return np.asarray(cv2.resize(pixels, (size_px, size_px), interpolation=cv2.INTER_AREA), np.uint8)


def preprocessing(
    ensemble: Ensemble, photographs: Mapping[int, Sequence[Path]], repeats: int
) -> dict[str, Any]:
    """Return by size of photographs the images/s of each way in each repeat, and what differs."""
    found: dict[str, Any] = {}
    for side_px, paths in photographs.items():
        files = [path.read_bytes() for path in paths]
        each = ways(ensemble.spec.preprocess)
        speeds: dict[str, list[float]] = {name: [] for name in each}
        for _ in range(repeats + 1):
            for name, way in each.items():
                speeds[name].append(images_per_s(way, files))
        speeds = {name: values[1:] for name, values in speeds.items()}
        found[side_name(side_px)] = {"images_per_s": speeds, **differences(ensemble, files)}
    return found


def images_per_s(way: Way, files: Sequence[bytes]) -> float:
    """Return how many of the files one thread prepares in a second."""
    started = time.perf_counter()
    for data in files:
        way(data)
    return len(files) / (time.perf_counter() - started)


def differences(ensemble: Ensemble, files: Sequence[bytes]) -> dict[str, float]:
    """Compare pixels with those of a full decode: mean difference in grey levels, largest of a probability.

    Folds of random weights have no probabilities worth comparing.
    """
    each = ways(ensemble.spec.preprocess)
    ours, full = (np.stack([each[name](data) for data in files]) for name in (OURS, FULL))
    found = {"mean_grey_levels": float(np.abs(ours.astype(np.int16) - full).mean())}
    if ensemble.name == REFERENCE:
        apart = np.abs(probabilities(ensemble, ours) - probabilities(ensemble, full))
        found["largest_dp"] = float(apart.max())
    return found


def probabilities(ensemble: Ensemble, pixels: Pixels) -> NDArray[np.float32]:
    """Return the mean over the folds (N, K)."""
    folds = ensemble.folds(FP32, one_thread)
    answers = [[fold.run([PROBABILITY], {PIXELS: each[None]})[0][0] for each in pixels] for fold in folds]
    return np.mean(answers, axis=0, dtype=np.float32)
