"""How phantoms are painted: soft noise, layers of light and pigment, and branching vessels.

A picture in the making is planar (3, W, W), full light being 1. Places are degrees, as in
`fundus_core.phantoms`: the fovea is the origin.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

WORK_PX = 800  # W: every field of view is drawn this wide, then resized to what its camera delivers

Pair = tuple[float, float]
Rgb = tuple[float, float, float]
Floats = NDArray[np.float32]
Places = NDArray[np.complex128]
Widths = NDArray[np.float64]  # degrees


def grid(centre: complex, size: float) -> tuple[Floats, Floats]:
    """Return x (1, W) and y (W, 1) of the pixels of a square around `centre`."""
    line = (((np.arange(WORK_PX) + 0.5) / WORK_PX - 0.5) * size).astype(np.float32)
    return line[None, :] + np.float32(centre.real), line[:, None] + np.float32(centre.imag)


def bumps(rng: Generator, cells: int) -> Floats:
    """Return smooth noise (W, W) of roughly unit variance, about `cells` bumps across."""
    coarse = rng.standard_normal((cells, cells), np.float32)
    return np.asarray(cv2.resize(coarse, (WORK_PX, WORK_PX), interpolation=cv2.INTER_CUBIC), np.float32)


def paint(retina: Floats, colour: Rgb, cover: Floats) -> None:
    """Lay `colour` over the retina where `cover` (W, W), 0..1, says so."""
    retina += (np.array(colour, np.float32)[:, None, None] - retina) * cover


def stain(retina: Floats, absorbed: Rgb, cover: Floats) -> None:
    """Take the share `absorbed` of each colour away where `cover` (W, W) says so."""
    retina *= 1 - np.array(absorbed, np.float32)[:, None, None] * cover


def tree(
    rng: Generator, start: complex, angles: Pair, length: float, width: float, branches: int
) -> Iterator[tuple[Places, Widths]]:
    """Yield a vessel, which turns early, wanders and ends short of the fovea; then its branches."""
    along = np.arange(0, length, 0.4)
    wander = 0.04 * np.cumsum(rng.standard_normal(len(along)))
    headings = angles[0] + angles[1] * (1 - np.exp(-along / 7)) + wander
    steps = 0.4 * np.exp(1j * headings)
    line = start + np.cumsum(steps) - steps
    widths = width * (1 - 0.6 * along / length)
    seen = int(np.argmin(np.append(abs(line) > 2.2, False)))
    if seen > 1:
        yield line[:seen], widths[:seen]
    forks = rng.integers(len(along) // 6, len(along) * 4 // 5, branches)
    for at in forks[forks < seen]:
        angle = rng.choice((-1, 1)) * rng.uniform(0.45, 1.0)
        rest = (length - along[at]) * rng.uniform(0.5, 0.9) + 2
        thin = widths[at] * rng.uniform(0.45, 0.7)
        yield from tree(rng, line[at], (headings[at] + angle, -0.5 * angle), rest, thin, branches // 3)


def ribbon(line: Places, widths: Widths, centre: complex, size: float) -> NDArray[np.int32]:
    """Return the outline (N, 2) of a vessel, in sixteenths of a pixel of a square around `centre`."""
    along = np.gradient(line)
    half = 0.5j * widths * along / abs(along)
    outline = (np.concatenate([line + half, (line - half)[::-1]]) - centre) / size
    places = np.stack([outline.real, outline.imag], axis=1) + 0.5
    return np.asarray(np.round(places * WORK_PX * 16), np.int32)
