"""Training images changed the way another camera, operator or archive would have changed them.

One function of an image, its recipe and a random generator: the same generator gives the same image, whatever
the number of processes, and after a resumed run too.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fundus_core.views import VIEWS
from fundus_train.recipe import Augment

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

EDGE_RADIUS = 1.5  # of a field, in sides of the picture
EDGE_AWAY = (0.25, 0.5)  # of the edge from the centre, in sides


def augment(pixels: Pixels, spec: Augment, rng: Generator) -> Pixels:
    """Return a changed copy of (S, S, 3) uint8 RGB: AugMix, then geometry, light and sharpness."""
    if spec.augmix:
        pixels = _augmix(pixels, spec.augmix, rng)
    pixels = _edged(_moved(pixels, spec, rng), spec, rng)
    pixels = _relit(pixels, spec, rng)
    return _degraded(pixels, spec, rng)


def _augmix(pixels: Pixels, severity: int, rng: Generator) -> Pixels:
    """AugMix (Hendrycks et al., ICLR 2020) by torchvision, which draws from PyTorch's generator."""
    import torch
    from torchvision.transforms.v2 import AugMix

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small pictures are not worth sharing
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(int(rng.integers(2**62)))
        mixed = AugMix(severity)(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    torch.set_num_threads(threads)
    return np.ascontiguousarray(mixed.permute(1, 2, 0).numpy())


def _moved(pixels: Pixels, spec: Augment, rng: Generator) -> Pixels:
    """Flip, turn, scale and shift; what comes in from outside looks like the outside in the corner."""
    views = list(VIEWS.values())
    if spec.flips:
        pixels = np.flip(pixels, views[rng.integers(len(views))].flip_axes)
    if not (spec.rotation_deg or spec.scale or spec.shift):
        return np.ascontiguousarray(pixels)
    side = len(pixels)
    angle, scale = rng.uniform(-1, 1) * spec.rotation_deg, (1 + spec.scale) ** rng.uniform(-1, 1)
    place = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), angle, scale)
    place = place + np.array([[0, 0, 1]]) * (rng.uniform(-1, 1, (2, 1)) * spec.shift * side)
    moved = cv2.warpAffine(
        np.ascontiguousarray(pixels), place, (side, side), borderValue=_outside(pixels).tolist()
    )
    return np.asarray(moved, np.uint8)


def _outside(pixels: Pixels) -> Pixels:
    """Return the colour beyond the field: the corner's (3,)."""
    return np.asarray(pixels[0, 0], np.uint8)


def _edged(pixels: Pixels, spec: Augment, rng: Generator) -> Pixels:
    """Let the edge of a round field cut off one side, so that an edge says nothing about the eye."""
    if rng.uniform() >= spec.field_edge:
        return pixels
    side, angle = len(pixels), rng.uniform(0, 2 * np.pi)
    radius = EDGE_RADIUS * side
    towards = (radius - rng.uniform(*EDGE_AWAY) * side) * np.exp(1j * angle)
    line = np.arange(side) - (side - 1) / 2
    beyond = (line[None] + towards.real) ** 2 + (line[:, None] + towards.imag) ** 2 > radius**2
    edged = pixels.copy()
    edged[beyond] = _outside(pixels)
    return edged


def _relit(pixels: Pixels, spec: Augment, rng: Generator) -> Pixels:
    """Change gamma, contrast, brightness and colour by one curve a channel, then the light at the edge."""
    level = np.linspace(0, 1, 256)[:, None] ** (1 + spec.gamma) ** rng.uniform(-1, 1)
    contrast, brightness = 1 + rng.uniform(-1, 1) * spec.contrast, rng.uniform(-1, 1) * spec.brightness
    mean = pixels.mean() / 255
    gain = (1 + spec.colour) ** rng.uniform(-1, 1, 3)
    curve = 255 * (((level - mean) * contrast + mean + brightness) * gain)
    relit = cv2.LUT(pixels, np.clip(np.rint(curve), 0, 255).astype(np.uint8)[None])
    if spec.vignette:
        light = 1 - rng.uniform() * spec.vignette * _away(len(pixels), rng)
        relit = cv2.multiply(relit, cv2.merge([light] * 3), dtype=cv2.CV_8U)
    return np.asarray(relit, np.uint8)


def _away(side: int, rng: Generator) -> Floats:
    """Return how far (0-1) each pixel is from where the light falls best, squared (S, S)."""
    line = np.linspace(-1, 1, side, dtype=np.float32)
    x, y = rng.uniform(-0.5, 0.5, 2).astype(np.float32)
    distance = (line[None] - x) ** 2 + (line[:, None] - y) ** 2
    return np.asarray(distance / distance.max(), np.float32)


def _degraded(pixels: Pixels, spec: Augment, rng: Generator) -> Pixels:
    """Blur and compress: what a lens and an archive do."""
    if spec.blur_px and (sigma := rng.uniform(0, spec.blur_px)) > 0.2:  # less changes nothing
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.uint8)
    if spec.jpeg:
        quality = [cv2.IMWRITE_JPEG_QUALITY, 100 - int(rng.integers(spec.jpeg + 1))]
        file = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)[1]
        pixels = np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR_RGB), np.uint8)
    return pixels
