import cv2
import numpy as np
import pytest

from fundus_core import phantoms
from fundus_core.illumination import GAIN, GREY, ILLUMINATIONS, METHODS, Illumination, Pixels
from fundus_core.preprocess import PreprocessSpec, preprocess

SIDE = 192
COLOUR = (160, 90, 50)
ON_GREY = ("local_mean", "local_contrast")
AWAY = np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2))


@pytest.fixture(scope="module")
def retina() -> Pixels:
    """A phantom that no change of these tests clips."""
    return preprocess(phantoms.render(3).pixels, PreprocessSpec(size_px=SIDE)) // 2 + 10 * field(1)


def field(colour: int | tuple[int, ...], radius: float = 80) -> Pixels:
    """Draw a field of one colour on black."""
    return np.where((radius >= AWAY)[..., None], np.array(colour), 0).astype(np.uint8) + np.zeros(3, np.uint8)


def change(name: Illumination, pixels: Pixels, other: Pixels) -> float:
    """Return the mean difference in grey levels that is left between two pictures, where both are lit."""
    lit = np.minimum(pixels, other).max(axis=2) > 40
    left = METHODS[name](pixels).astype(int) - METHODS[name](other)
    return float(np.abs(left[lit]).mean())


def test_there_is_one_method_for_each_name_but_none() -> None:
    assert set(METHODS) == set(ILLUMINATIONS) - {"none"}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(SIDE, SIDE), (16, 16), (1, 1), (5, 40)])
def test_the_result_has_the_shape_of_the_picture_which_is_left_alone(
    name: Illumination, shape: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    before = pixels.copy()
    result = METHODS[name](pixels)
    assert (result.shape, result.dtype) == (pixels.shape, np.uint8)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("name", METHODS)
def test_a_black_picture_stays_of_one_grey(name: Illumination) -> None:
    result = METHODS[name](np.zeros((SIDE, SIDE, 3), np.uint8))
    assert np.ptp(result) == 0
    assert result.max() == GREY if name in ON_GREY else result.max() <= 5


@pytest.mark.parametrize("name", METHODS)
def test_the_margin_stays_neutral(name: Illumination) -> None:
    margin = METHODS[name](field(COLOUR))[AWAY > 83].astype(int)
    level = GREY if name in ON_GREY else 0
    assert np.abs(margin - level).max() <= 5
    assert np.ptp(margin, axis=1).max() <= 1


@pytest.mark.parametrize(
    ("name", "soft"),
    # this field has no contrast but that of its soft edge, which local_contrast would show at full strength
    [(name, soft) for name in METHODS for soft in (0.0, 1.0) if (name, soft) != ("local_contrast", 1.0)],
)
def test_the_edge_of_the_field_casts_no_halo(name: Illumination, soft: float) -> None:
    pixels = field(COLOUR)
    pixels = cv2.GaussianBlur(pixels, (0, 0), soft) if soft else pixels
    result = METHODS[name](pixels).astype(int)
    shown = (200 if name in ON_GREY else 76 - 3 * soft) > AWAY  # the others leave the edge itself as it is
    assert np.abs(result[shown] - result[SIDE // 2, SIDE // 2]).max() <= 60  # without a mask: 128


def test_grey_world_gives_each_channel_the_same_mean(retina: Pixels) -> None:
    lit = retina.max(axis=2) > 16
    means = METHODS["grey_world"](retina)[lit].mean(axis=0)
    assert np.abs(means - GREY).max() < 8
    assert np.ptp(retina[lit].mean(axis=0)) > 30


def test_grey_world_takes_each_channels_gain_out(retina: Pixels) -> None:
    other = (retina * np.array([0.9, 0.6, 0.75])).astype(np.uint8)
    assert change("grey_world", retina, other) < 1.5
    assert np.abs(retina.astype(int) - other)[AWAY < 70].mean() > 10


@pytest.mark.parametrize("name", ON_GREY)
def test_a_veil_is_taken_out(name: Illumination, retina: Pixels) -> None:
    other = retina + (retina.max(axis=2, keepdims=True) > 16).astype(np.uint8) * np.array(
        [10, 20, 40], np.uint8
    )
    assert change(name, retina, other) < 1.5


def test_local_contrast_takes_weak_light_out_and_local_mean_shows_it(retina: Pixels) -> None:
    other = (retina * 0.7).astype(np.uint8)
    assert change("local_contrast", retina, other) < 4
    assert change("local_mean", retina, other) > 1.8 * change("local_contrast", retina, other)


def test_little_is_left_of_a_slope_of_the_light() -> None:
    slope = (field(COLOUR) * np.linspace(0.6, 1, SIDE)[None, :, None]).astype(np.uint8)
    before, after = (pixels[AWAY < 60][:, 1].std() for pixels in (slope, METHODS["local_mean"](slope)))
    assert after < GAIN * before / 3


@pytest.mark.parametrize("name", METHODS)
def test_the_vessels_and_the_disc_are_still_to_be_seen(name: Illumination, retina: Pixels) -> None:
    def details(pixels: Pixels) -> Pixels:
        green = pixels[..., 1].astype(np.float32)
        return (green - cv2.GaussianBlur(green, (0, 0), 4))[AWAY < 70]

    shown, real = details(METHODS[name](retina)), details(retina)
    assert np.corrcoef(shown, real)[0, 1] > 0.8
    assert shown.std() > real.std()


def test_clahe_lifts_contrast_where_the_light_is_even(retina: Pixels) -> None:
    before, after = (pixels[AWAY < 70][:, 1].std() for pixels in (retina, METHODS["clahe"](retina)))
    assert after > 1.2 * before
