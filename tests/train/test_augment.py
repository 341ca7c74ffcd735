from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
import torch
from numpy.random import default_rng

from fundus_core import phantoms
from fundus_core.errors import RecipeError
from fundus_core.preprocess import PreprocessSpec, preprocess
from fundus_core.views import VIEWS
from fundus_train.augment import Pixels, augment
from fundus_train.recipe import Augment

SIDE = 96
OFF = Augment(flips=False)
KNOBS = {
    "flips": True,
    "augmix": 3,
    "rotation_deg": 20.0,
    "scale": 0.3,
    "shift": 0.1,
    "field_edge": 1.0,
    "brightness": 0.2,
    "contrast": 0.4,
    "gamma": 0.4,
    "colour": 0.3,
    "vignette": 0.5,
    "blur_px": 2.0,
    "jpeg": 80,
}
ALL = Augment(**KNOBS)
LINE = np.arange(SIDE) - (SIDE - 1) / 2
AWAY = np.hypot(LINE[:, None], LINE[None])


@pytest.fixture(scope="module")
def retina() -> Pixels:
    """A phantom."""
    return preprocess(phantoms.render(3).pixels, PreprocessSpec(size_px=SIDE))


def blob(x: float = 20, y: float = 0, radius: float = 9) -> Pixels:
    """Draw a bright spot, at a place from the middle, on black."""
    spot = 200 * (np.hypot(LINE[None] - x, LINE[:, None] - y) <= radius)
    return np.repeat(spot.astype(np.uint8)[..., None], 3, axis=2)


def where(pixels: Pixels) -> complex:
    """Return the centre of what is bright, from the middle."""
    weight = pixels[..., 1].astype(float)
    return complex((weight * LINE[None]).sum(), (weight * LINE[:, None]).sum()) / weight.sum()


def drawn(pixels: Pixels, count: int = 40, **knobs: float) -> list[Pixels]:
    """Return `count` changed pictures, with these knobs on alone."""
    return [augment(pixels, replace(OFF, **knobs), default_rng([7, i])) for i in range(count)]


def test_every_knob_is_known_to_these_tests() -> None:
    assert KNOBS.keys() == {field.name for field in fields(Augment)}


@pytest.mark.parametrize("name", KNOBS)
def test_each_knob_alone_changes_pictures_and_leaves_what_it_was_given(name: str, retina: Pixels) -> None:
    before = retina.copy()
    changed = drawn(retina, 8, **{name: KNOBS[name]})
    assert np.array_equal(retina, before)
    assert sum(not np.array_equal(each, retina) for each in changed) >= 4
    assert len({each.tobytes() for each in changed}) > 2


@pytest.mark.parametrize("spec", [OFF, Augment(), ALL, *(replace(OFF, **{n: KNOBS[n]}) for n in KNOBS)])
def test_the_generator_alone_decides(spec: Augment, retina: Pixels) -> None:
    first = augment(retina, spec, default_rng([1, 2]))
    torch.manual_seed(99)
    np.random.seed(99)
    cv2.setRNGSeed(99)
    again = augment(retina.copy(), spec, default_rng([1, 2]))
    assert np.array_equal(first, again)
    assert (first.shape, first.dtype, first.flags.c_contiguous) == (retina.shape, np.uint8, True)


def test_with_everything_off_nothing_changes(retina: Pixels) -> None:
    noise = default_rng(0).integers(0, 256, retina.shape, np.uint8)
    for pixels in (retina, noise):
        for i in range(20):
            assert np.array_equal(augment(pixels, OFF, default_rng(i)), pixels)


def test_flips_give_the_four_views_and_nothing_else() -> None:
    pixels = default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    counts = dict.fromkeys(VIEWS, 0)
    for i in range(200):
        after = augment(pixels, Augment(), default_rng(i))
        (name,) = [n for n, view in VIEWS.items() if np.array_equal(after, np.flip(pixels, view.flip_axes))]
        counts[name] += 1
    assert min(counts.values()) > 30


def test_rotation_turns_to_both_sides_up_to_its_limit() -> None:
    angles = np.array([np.angle(where(each), deg=True) for each in drawn(blob(), rotation_deg=20)])
    assert (np.abs(angles) <= 20.5).all()
    assert angles.min() < -10
    assert angles.max() > 10
    assert np.allclose([abs(where(each)) for each in drawn(blob(), rotation_deg=20)], 20, atol=0.3)


def test_scale_enlarges_and_shrinks_around_the_middle() -> None:
    places = np.array([where(each) for each in drawn(blob(), scale=0.3)])
    factor = places.real / 20
    assert np.allclose(places.imag, 0, atol=0.3)
    assert factor.min() > 1 / 1.32
    assert factor.max() < 1.32
    assert factor.min() < 0.85
    assert factor.max() > 1.18
    area = np.array([each.mean() for each in drawn(blob(), scale=0.3)]) / blob().mean()
    assert np.allclose(area, factor**2, rtol=0.1)


def test_shift_moves_in_all_directions_up_to_its_share() -> None:
    moves = np.array([where(each) - 20 for each in drawn(blob(), shift=0.1)]) / SIDE
    for along in (moves.real, moves.imag):
        assert np.abs(along).max() <= 0.102
        assert along.min() < -0.05
        assert along.max() > 0.05


def test_what_comes_in_from_outside_looks_like_the_corner() -> None:
    pixels = np.full((SIDE, SIDE, 3), (60, 70, 80), np.uint8)
    for each in drawn(pixels, 10, rotation_deg=45, scale=0.5, shift=0.3, field_edge=1.0):
        assert np.array_equal(each, pixels)


def test_a_field_edge_cuts_off_one_side_of_its_share_of_pictures() -> None:
    pixels = np.full((SIDE, SIDE, 3), 200, np.uint8)
    pixels[0, 0] = 0  # the outside is black
    cut = [(each == 0).all(axis=2) for each in drawn(pixels, 60, field_edge=0.5)]
    shares = np.array([each.mean() for each in cut])
    on = shares > 0.01
    assert 15 <= on.sum() <= 45
    assert shares.max() < 0.4
    for each in (c for c, is_on in zip(cut, on, strict=True) if is_on):
        assert not each[AWAY < SIDE / 4].any()  # nothing of the middle
    towards = np.array([where(np.repeat(each[..., None], 3, 2)) for each in cut if each.mean() > 0.01])
    assert min(np.ptp(towards.real), np.ptp(towards.imag)) > SIDE / 2


def test_brightness_moves_every_level_by_the_same() -> None:
    pixels = np.repeat(np.linspace(70, 180, SIDE).astype(np.uint8)[None, :, None], SIDE, 0).repeat(3, 2)
    steps = []
    for each in drawn(pixels, brightness=0.2):
        difference = each.astype(int) - pixels
        assert np.ptp(difference) <= 1
        steps.append(difference.mean() / 255)
    assert -0.202 <= min(steps) < -0.1
    assert 0.1 < max(steps) <= 0.202


def test_contrast_spreads_around_the_mean(retina: Pixels) -> None:
    pixels = 60 + retina // 3
    spreads = []
    for each in drawn(pixels, contrast=0.4):
        assert each.mean() == pytest.approx(pixels.mean(), abs=1)
        spreads.append(each.std() / pixels.std())
    assert 0.58 <= min(spreads) < 0.8
    assert 1.2 < max(spreads) <= 1.42


def test_gamma_keeps_black_and_white_and_moves_the_rest() -> None:
    pixels = np.repeat(np.array([0, 64, 128, 255], np.uint8), SIDE * SIDE // 4).reshape(SIDE, SIDE, 1)
    middles = []
    for each in drawn(pixels.repeat(3, 2), gamma=0.4):
        black, _, grey, white = each[:: SIDE // 4, 0, 0]
        assert (black, white) == (0, 255)
        middles.append(np.log(grey / 255) / np.log(128 / 255))
    assert 1 / 1.42 <= min(middles) < 0.85
    assert 1.15 < max(middles) <= 1.42


def test_colour_changes_the_ratios_of_the_channels() -> None:
    pixels = np.full((SIDE, SIDE, 3), (150, 100, 50), np.uint8)
    gains = np.array([each.mean((0, 1)) / (150, 100, 50) for each in drawn(pixels, colour=0.3)])
    assert (gains >= 1 / 1.32).all()
    assert (gains <= 1.32).all()
    ratio = gains[:, 0] / gains[:, 2]
    assert ratio.min() < 0.85
    assert ratio.max() > 1.15


def test_a_vignette_darkens_the_edge_and_not_the_place_of_the_light() -> None:
    pixels = np.full((SIDE, SIDE, 3), 200, np.uint8)
    darkest = []
    for each in drawn(pixels, vignette=0.5):
        assert each.max() >= 199
        assert each[AWAY < 10].mean() > each[AWAY > 60].mean() - 1
        darkest.append(each.min() / 200)
    assert 0.49 <= min(darkest) < 0.65
    assert max(darkest) > 0.85


def test_blur_takes_fine_detail_away_and_jpeg_makes_blocks(retina: Pixels) -> None:
    noise = default_rng(0).integers(100, 150, retina.shape, np.uint8)
    fine = [each.std() / noise.std() for each in drawn(noise, blur_px=2.0)]
    assert max(fine) <= 1
    assert min(fine) < 0.3

    def lost(pixels: Pixels) -> float:
        return float(np.abs(pixels.astype(int) - retina).mean())

    strong, weak = (np.array([lost(each) for each in drawn(retina, jpeg=j)]) for j in (90, 20))
    assert 0 < weak.mean() < strong.mean() / 1.5


def test_jpeg_spends_its_bits_as_an_archive_does(retina: Pixels) -> None:
    """Red counts three times as much as blue: with the channels exchanged, it would be another picture."""
    (changed,) = drawn(retina, 1, jpeg=90)
    files = [
        cv2.imencode(".jpg", cv2.cvtColor(retina, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, level])[1]
        for level in range(10, 101)
    ]
    pictures = [cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB) for file in files]
    assert any(np.array_equal(changed, each) for each in pictures)


def test_augmix_grows_with_its_severity_and_leaves_pytorch_alone(retina: Pixels) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    weak, strong = (np.array(drawn(retina, 12, augmix=severity)).astype(int) for severity in (1, 10))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert 0 < np.abs(weak - retina).mean() < np.abs(strong - retina).mean()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"augmix": 11}, "augmix is 11; choose a severity of 0 to 10"),
        ({"jpeg": 100}, "jpeg is 100; choose 0 to 99"),
        ({"scale": -0.1}, r"scale is -0\.1; choose 0 or more"),
        ({"gamma": float("nan")}, "gamma is nan; choose 0 or more"),
        ({"rotation_deg": float("inf")}, "rotation_deg is inf"),
        ({"vignette": 1.5}, r"vignette is 1\.5; choose 0 to 1"),
        ({"field_edge": 2.0}, r"field_edge is 2\.0; choose 0 to 1"),
    ],
)
def test_an_impossible_change_is_refused(values: dict[str, float], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        Augment(**values)
