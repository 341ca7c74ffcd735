"""Phantoms are drawn twice, with and without vessels: the truth of what a vessel hides is known."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from fundus_core import phantoms
from fundus_core.files import find_images
from fundus_core.images import decode
from fundus_core.preprocess import remove_margin
from fundus_core.vessels import erase_vessels

Pixels = NDArray[np.uint8]
SEEDS = (0, 1, 4, 6)  # 1900, 400, 1440 and 640 pixels wide


def drawn_twice(seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Pixels, Pixels]:
    """The phantom as it is, and without its vessels; all else is drawn alike."""
    with_vessels, stain = phantoms.render(seed).pixels, phantoms._stain_vessels

    def stain_a_copy(retina: phantoms.Floats, drawn: phantoms.Plan, rng: Generator) -> None:
        stain(retina.copy(), drawn, rng)

    with monkeypatch.context() as patch:
        patch.setattr(phantoms, "_stain_vessels", stain_a_copy)
        return with_vessels, phantoms.render(seed).pixels


def differences(first: Pixels, second: Pixels) -> NDArray[np.int64]:
    return first.astype(np.int64) - second


def on_the_disc(seed: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where the disc is in the picture of a phantom (H, W)."""
    plan, (height, width) = phantoms.plan(seed), shape[:2]
    per_degree = plan.camera.field * plan.camera.width_px / plan.field_deg
    x, y = np.arange(width) - (width - 1) / 2, np.arange(height)[:, None] - (height - 1) / 2
    mirror = -1 if plan.eye == "left" else 1
    place = (mirror * x + 1j * y) / per_degree + plan.gaze - plan.disc
    return np.asarray(np.hypot(place.real / plan.disc_radius[0], place.imag / plan.disc_radius[1]) < 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_vessels_become_what_they_hide(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, bare = drawn_twice(seed, monkeypatch)
    hidden = differences(bare, pixels)[..., 1]
    vessels = (hidden > 0.1 * bare[..., 1]) & (bare[..., 1] > 30)
    left = differences(bare, erase_vessels(pixels))[..., 1]
    assert vessels.mean() > 0.05
    assert abs(left[vessels].mean()) < 0.15 * hidden[vessels].mean()
    assert abs(left[vessels]).mean() < 0.3 * hidden[vessels].mean()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_no_vessel_stays(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, bare = drawn_twice(seed, monkeypatch)
    changed = abs(differences(erase_vessels(pixels), pixels)).max(axis=2)
    near = cv2.dilate((bare != pixels).any(axis=2).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert changed[~near].mean() < 0.3
    assert changed[pixels.max(axis=2) == 0].max() == 0, "the dark margin"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_disc_keeps_its_colour(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, bare = drawn_twice(seed, monkeypatch)
    disc = on_the_disc(seed, pixels.shape)
    found, expected = erase_vessels(pixels)[disc], bare[disc]
    away = abs(found.mean(axis=0) - expected.mean(axis=0))
    assert (away < 0.5 * abs(pixels[disc].mean(axis=0) - expected.mean(axis=0))).all()
    assert found.std(axis=0) == pytest.approx(expected.std(axis=0), rel=0.25), "cup and rim stay apart"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_picture_without_vessels_is_nearly_unchanged(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, bare = drawn_twice(seed, monkeypatch)
    assert abs(differences(erase_vessels(bare), bare)).mean() < 0.2


def test_shade_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, bare = drawn_twice(5, monkeypatch)
    shade = np.linspace(0.4, 1, pixels.shape[1])[:, None]
    dark, dark_bare = ((picture * shade).astype(np.uint8) for picture in (pixels, bare))
    hidden = differences(dark_bare, dark)[..., 1]
    vessels = (hidden > 0.1 * dark_bare[..., 1]) & (dark_bare[..., 1] > 30)
    left = differences(dark_bare, erase_vessels(dark))[..., 1]
    for half in np.split(np.arange(pixels.shape[1]), 2):
        assert abs(left[:, half][vessels[:, half]].mean()) < 0.2 * hidden[:, half][vessels[:, half]].mean()


@pytest.mark.parametrize("axes", [(1,), (0,), (0, 1)])
def test_a_mirrored_picture_is_filled_alike(axes: tuple[int, ...]) -> None:
    pixels = phantoms.render(7).pixels
    mirrored = erase_vessels(np.ascontiguousarray(np.flip(pixels, axes)))
    assert abs(differences(np.flip(mirrored, axes), erase_vessels(pixels))).mean() < 0.02


def test_the_same_picture_gives_the_same_again_and_is_not_touched() -> None:
    pixels = phantoms.render(1).pixels
    before = pixels.copy()
    assert np.array_equal(erase_vessels(pixels), erase_vessels(pixels))
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 2), (17, 16), (300, 9), (700, 1100)])
@pytest.mark.parametrize("grey", [0, 16, 120, 255])
def test_an_even_picture_of_any_size_stays(shape: tuple[int, int], grey: int) -> None:
    pixels = np.full((*shape, 3), grey, np.uint8)
    assert np.array_equal(erase_vessels(pixels), pixels)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (31, 64), (90, 200)])
def test_noise_of_any_size_keeps_its_shape(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    erased = erase_vessels(pixels)
    assert (erased.shape, erased.dtype) == (pixels.shape, np.uint8)


@pytest.mark.parametrize("source", ["hygd/images", "airogs-light/glaucoma", "odir-lowres/normal"])
def test_dark_lines_of_real_photographs_vanish_and_the_rest_stays(photographs: Path, source: str) -> None:
    files = [ref.path for ref in find_images([photographs / source])][:6]
    pictures = [remove_margin(decode(path.read_bytes()), 16) for path in files]
    for pixels in pictures:
        erased = erase_vessels(pixels)
        assert (abs(differences(erased, pixels)).max(axis=2) > 8).mean() < 0.25
    lines = [(dark_lines(pixels), dark_lines(erase_vessels(pixels))) for pixels in pictures]
    before, after = np.mean(lines, axis=0)
    assert after < 0.7 * before


def dark_lines(pixels: Pixels) -> float:
    """An independent measure of lines, noise and all: the curvature of green, at the scale of vessels."""
    green = cv2.resize(pixels[..., 1], (300, 300), interpolation=cv2.INTER_AREA).astype(np.float32)
    soft = cv2.GaussianBlur(green, (0, 0), 2)
    line = np.arange(300) - 149.5
    inside = line**2 + line[:, None] ** 2 < 135**2
    return float(np.quantile(cv2.Laplacian(soft, cv2.CV_32F)[inside], 0.99))
