"""Copies of photographs: the same file again, or the same picture saved anew.

All fundus photographs look alike, so a print of one holds only what differs between eyes: the fine structure
(vessels) on the green channel, inside the field, with illumination and contrast taken out. Pictures whose
256 bit hashes (signs of its discrete cosine transform, after Zauner 2010) are near are compared by
normalised correlation, at a few shifts and scales, so that a slightly other margin does not hide a copy.
A mirrored picture is another picture. What the two limits were chosen from stands in CONTRIBUTING.md.

Letters in shapes: N images.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import ImageError
from fundus_core.files import read_encoded
from fundus_core.images import DEFAULT_LIMITS, decode
from fundus_core.lit import MARGIN_LEVEL, brightest
from fundus_core.preprocess import Pixels, remove_margin

Tick = Callable[[int, int], None]  # (done, total)
Floats = NDArray[np.float32]

HASH_SIDE = 16  # 16 x 16 signs
MAX_BITS = 72  # of 256 that differ; 128 is chance
MIN_CORRELATION = 0.78  # two eyes with dust on one lens reach 0.71

DETAIL_PX = 64
SHIFT_PX = 4  # of DETAIL_PX: how far the two pictures may lie apart
SCALES = (0.96, 0.98, 1.0, 1.02, 1.04)
CLIP = 1.5  # standard deviations; a reflection or a camera's speck must not outweigh the vessels
BLOCK = 4096  # images a block of the all-pairs comparison


@dataclass(frozen=True)
class Prints:
    """What is remembered of N images; `failed` says why an image has no print."""

    failed: tuple[str, ...]  # (N,) "" or "code: sentence"
    sha256: tuple[str, ...]  # (N,)
    n_pixels: NDArray[np.int64]  # (N,)
    hashes: NDArray[np.uint8]  # (N, 32) packed bits; all zero where there is no structure to compare
    details: NDArray[np.int8]  # (N, DETAIL_PX, DETAIL_PX), memory-mapped


@dataclass(frozen=True)
class _Print:
    failed: str = ""
    sha256: str = ""
    n_pixels: int = 0
    hash: bytes = bytes(HASH_SIDE * HASH_SIDE // 8)
    detail: bytes = bytes(DETAIL_PX * DETAIL_PX)


def take_prints(paths: Sequence[Path], scratch: Path, tick: Tick) -> Prints:
    """Read every image once; memory stays flat, since details go to an unnamed file in `scratch`.

    Raises:
        OSError: `scratch` is full.
    """
    prints = []
    with ThreadPoolExecutor() as threads, tempfile.TemporaryFile(dir=scratch) as file:
        # where this loop ends early, map() cancels what is still queued
        for done, taken in enumerate(threads.map(_take_print, paths), start=1):
            file.write(taken.detail)
            prints.append((taken.failed, taken.sha256, taken.n_pixels, taken.hash))
            tick(done, len(paths))
        file.flush()
        details = np.memmap(file, np.int8, mode="r", shape=(len(paths), DETAIL_PX, DETAIL_PX))
    failed, sha256, n_pixels, hashes = zip(*prints, strict=True)
    bits = np.frombuffer(b"".join(hashes), np.uint8).reshape(len(paths), -1)
    return Prints(failed, sha256, np.array(n_pixels), bits, details)


def _take_print(path: Path) -> _Print:
    try:
        data = read_encoded(path, DEFAULT_LIMITS)
        pixels = decode(data)
    except ImageError as error:
        return _Print(failed=f"{error.reason}: {error}")
    field = remove_margin(pixels, MARGIN_LEVEL)
    # stretched to a square: a copy that was saved as a square is a copy
    field = np.asarray(cv2.resize(field, (DETAIL_PX, DETAIL_PX), interpolation=cv2.INTER_AREA), np.uint8)
    detail = fine_structure(field, erode_px=4, smooth_px=0.6)
    half = cv2.resize(field, (DETAIL_PX // 2, DETAIL_PX // 2), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(fine_structure(np.asarray(half, np.uint8), erode_px=2, smooth_px=0))
    bits = np.packbits(waves[1 : HASH_SIDE + 1, 1 : HASH_SIDE + 1] > 0)
    quantised = np.rint(detail * (100 / CLIP)).clip(-127, 127).astype(np.int8)
    size = pixels.shape[0] * pixels.shape[1]
    return _Print("", hashlib.sha256(data).hexdigest(), size, bits.tobytes(), quantised.tobytes())


def fine_structure(field: Pixels, erode_px: int, smooth_px: float) -> Floats:
    """Return the (S, S) local contrast of green in (S, S, 3) `field`: mean 0, and 0 near its edge."""
    lit = (brightest(field) > MARGIN_LEVEL).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * erode_px + 1, 2 * erode_px + 1))
    inner = cv2.erode(lit, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0,)).astype(np.float32)
    weight = lit.astype(np.float32)
    green = np.log(field[..., 1].astype(np.float32) + MARGIN_LEVEL)
    if smooth_px:
        green = _blur(green, weight, smooth_px)
    contrast = green - _blur(green, weight, 2)
    contrast /= np.sqrt(_blur(contrast * contrast, weight, 4)) + np.float32(0.02)
    contrast = contrast.clip(-CLIP, CLIP) * inner
    return np.asarray(contrast - inner * (contrast.sum() / max(inner.sum(), 1)), np.float32)


def _blur(values: Floats, weight: Floats, sigma_px: float) -> Floats:
    """Blur inside the field only, so that its edge leaves no trace."""
    blurred = cv2.GaussianBlur(values * weight, (0, 0), sigma_px)
    return np.asarray(blurred / (cv2.GaussianBlur(weight, (0, 0), sigma_px) + 1e-3), np.float32)


def find_copies(prints: Prints) -> Iterator[tuple[int, int]]:
    """Yield (earlier, later) pairs of copies, exact ones first; enough of them to join all copies."""
    first: dict[str, int] = {}
    for i, digest in enumerate(prints.sha256):
        if digest and first.setdefault(digest, i) != i:
            yield first[digest], i
    once = np.array(sorted(first.values()), dtype=np.int64)
    seen = once[prints.hashes[once].any(axis=1)]
    for a, b in near_hashes(prints.hashes[seen]):
        one, other = int(seen[a]), int(seen[b])
        if correlation(prints.details[one], prints.details[other]) >= MIN_CORRELATION:
            yield one, other


def near_hashes(hashes: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield pairs (earlier, later) of (N, 32) hashes that differ in at most `MAX_BITS`, block by block."""
    for i, j in combinations_with_replacement(range(0, len(hashes), BLOCK), 2):
        agreement = _signs(hashes[i : i + BLOCK]) @ _signs(hashes[j : j + BLOCK]).T  # bits: equal - different
        near = agreement >= HASH_SIDE * HASH_SIDE - 2 * MAX_BITS
        flat = np.flatnonzero(np.triu(near, 1) if i == j else near)  # far faster than in two dimensions
        for a, b in zip(*np.unravel_index(flat, near.shape), strict=True):
            yield i + int(a), j + int(b)


def _signs(hashes: NDArray[np.uint8]) -> Floats:
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def correlation(one: NDArray[np.int8], other: NDArray[np.int8]) -> float:
    """Return the highest normalised correlation of two details over `SHIFT_PX` and `SCALES`."""
    a, b = one.astype(np.float32), other.astype(np.float32)
    centre = ((DETAIL_PX - 1) / 2,) * 2
    inside = slice(SHIFT_PX, -SHIFT_PX)
    best = 0.0
    for scale in SCALES:
        turned = cv2.warpAffine(a, cv2.getRotationMatrix2D(centre, 0, scale), (DETAIL_PX, DETAIL_PX))
        found = cv2.matchTemplate(b, turned[inside, inside], cv2.TM_CCOEFF_NORMED)
        best = max(best, float(np.nan_to_num(found, posinf=0, neginf=0).max()))
    return best


def join_groups(number: NDArray[np.int64], pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the (N,) group numbers after the groups of each pair of rows have become one."""
    number = number.copy()
    for one, other in pairs:
        number[number == number[other]] = number[one]
    return number
