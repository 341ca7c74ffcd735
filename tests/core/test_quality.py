from dataclasses import astuple, fields, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fundus_core.overview import overview
from fundus_core.phantoms import CAMERAS, draw, plan
from fundus_core.preprocess import remove_margin
from fundus_core.quality import LIMITS, MEASURES, Quality, measure, ungradable

GOOD = Quality(0.8, 1000, 1.0, 0.6, 1.0, 4.0)


def quality_of(field):
    return measure(overview(field), max(field.shape[:2]))


def verdict(pixels):
    return ungradable(quality_of(remove_margin(np.ascontiguousarray(pixels), 16)))


def codes(pixels):
    return [each.split()[0] for each in verdict(pixels).split("; ") if each]


def phantom(camera, seed=0):
    return draw(replace(plan(seed), camera=camera)).pixels


def blurred(pixels, share_of_width):
    return cv2.GaussianBlur(pixels, (0, 0), share_of_width * pixels.shape[1])


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.name)
def test_a_phantom_of_every_camera_is_gradable(camera):
    assert verdict(phantom(camera, seed=CAMERAS.index(camera))) == ""


SPOILT = {
    "nearly black": (lambda pixels: pixels // 16, ["dark"]),
    "black": (lambda pixels: pixels * 0, ["dark"]),
    "of a thumbnail": (lambda pixels: pixels[::8, ::8], ["tiny"]),
    "blurred": (lambda pixels: blurred(pixels, 0.03), ["blurred"]),
    "grey": (lambda pixels: pixels[..., 1:2].repeat(3, axis=2), ["grey"]),
    "in green light": (lambda pixels: pixels * np.array([0, 1, 0], np.uint8), ["colour"]),
    "with red and blue swapped": (lambda pixels: pixels[..., ::-1], ["colour"]),
}


@pytest.mark.parametrize(("spoil", "expected"), SPOILT.values(), ids=SPOILT)
def test_a_spoilt_photograph_is_flagged_for_that(spoil, expected):
    pixels = phantom(CAMERAS[1])
    assert codes(spoil(pixels)) == expected


def test_no_field_is_found_in_scattered_light():
    pixels = np.zeros((600, 600, 3), np.uint8)
    for x in (100, 300, 500):
        cv2.line(pixels, (x, 0), (600 - x, 599), (200, 110, 50), 40)
    assert "no_field" in codes(pixels)


def test_noise_has_more_detail_than_a_retina():
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 1), np.uint8)
    assert {"grey", "detail"} <= set(codes(noise.repeat(3, axis=2)))


def test_a_plain_frame_in_a_fundus_colour_is_blurred():
    assert codes(np.full((400, 600, 3), (200, 110, 50), np.uint8)) == ["blurred"]


def test_measures_hardly_depend_on_the_pixels_of_the_camera():
    large = remove_margin(phantom(CAMERAS[0]), 16)
    small = cv2.resize(large, (512, 512), interpolation=cv2.INTER_AREA)
    first, second = quality_of(large), quality_of(small)
    assert second.field_px == 512
    for name in ("brightness", "roundness", "saturation", "fundus_colour"):
        assert getattr(second, name) == pytest.approx(getattr(first, name), abs=0.01)
    assert second.sharpness == pytest.approx(first.sharpness, rel=0.15)


def test_more_blur_is_less_sharp():
    pixels = phantom(CAMERAS[1])
    sharpness = [quality_of(blurred(pixels, share)).sharpness for share in (0.001, 0.004, 0.008, 0.016)]
    assert sharpness == sorted(sharpness, reverse=True)
    assert sharpness[0] > 3 * sharpness[-1]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 255), st.integers(0, 2**32))
def test_any_picture_has_finite_measures(height, width, level, seed):
    noise = np.random.default_rng(seed).integers(0, level + 1, (height, width, 3), np.uint8)
    for pixels in (noise, np.full_like(noise, level), noise[:1], noise[:, :1]):
        quality = quality_of(pixels)
        assert np.isfinite(quality.vector).all()
        ungradable(quality)


def test_the_vector_keeps_every_measure_and_its_order():
    vector = GOOD.vector
    assert (vector.shape, vector.dtype) == ((len(MEASURES),), np.float32)
    assert Quality.from_vector(vector) == Quality(*map(float, np.float32(astuple(GOOD))))
    assert [field.name for field in fields(Quality)] == [
        *("brightness", "field_px", "roundness", "saturation", "fundus_colour", "sharpness"),
    ]


@pytest.mark.parametrize("vector", [GOOD.vector[:5], GOOD.vector * np.float32(np.nan)])
def test_a_vector_of_something_else_is_refused(vector):
    with pytest.raises(ValueError, match="expected 6 finite measures, got"):
        Quality.from_vector(vector)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"brightness": 0.0204}, "dark 0.02"),
        ({"brightness": 0.0204, "sharpness": 0}, "dark 0.02"),
        ({"field_px": 99, "sharpness": 0}, "tiny 99"),
        ({"roundness": 0.304}, "no_field 0.30"),
        ({"saturation": 0, "sharpness": 0.26}, "grey 0.00; blurred 0.26"),
        ({"fundus_colour": 0.1, "sharpness": 20.04}, "colour 0.10; detail 20.04"),
        ({"brightness": LIMITS.min_brightness, "sharpness": LIMITS.max_sharpness}, ""),
    ],
)
def test_what_is_said_of_measures(changes, said):
    assert ungradable(replace(GOOD, **changes)) == said
