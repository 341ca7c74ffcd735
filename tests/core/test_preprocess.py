import io
import json
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fundus_core import phantoms
from fundus_core.disc import Disc, find_disc
from fundus_core.errors import ImageError, RecipeError
from fundus_core.illumination import ILLUMINATIONS, METHODS, Illumination
from fundus_core.images import decode
from fundus_core.preprocess import (
    REVISION,
    PreprocessSpec,
    crop_around,
    crop_centre,
    keep_circle,
    pad_to_square,
    preprocess,
    preprocess_encoded,
    preprocess_steps,
    remove_margin,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "preprocess.json"
GOLDEN_SPECS = {
    "whole": PreprocessSpec(size_px=256),
    "centre": PreprocessSpec(size_px=128, margin_threshold=24, centre_crop=0.9),
    "disc": PreprocessSpec(size_px=128, disc_crop=0.4),
    "grey world": PreprocessSpec(size_px=128, illumination="grey_world"),
    "clahe": PreprocessSpec(size_px=128, illumination="clahe"),
    "local mean": PreprocessSpec(size_px=128, illumination="local_mean"),
    "disc, local contrast": PreprocessSpec(size_px=128, disc_crop=0.5, illumination="local_contrast"),
}
GOLDEN_SEEDS = (0, 1, 2, 5, 9)


def disc(height: int, width: int, box: tuple[int, int, int, int], grey: int = 120) -> np.ndarray:
    """Draw a filled ellipse on black that touches every side of box (top, bottom, left, right)."""
    top, bottom, left, right = box
    y, x = np.mgrid[:height, :width]
    distance = ((2 * y + 1 - top - bottom) / (bottom - top)) ** 2
    distance = distance + ((2 * x + 1 - left - right) / (right - left)) ** 2
    return np.repeat(np.where(distance <= 1, grey, 0).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((240, 320), (20, 220, 60, 260)),
        ((240, 320), (0, 240, 40, 280)),
        ((300, 200), (90, 210, 15, 185)),
        ((1500, 2000), (100, 1402, 300, 1702)),
    ],
)
def test_the_margin_around_a_disc_is_removed_up_to_its_edge(
    shape: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    pixels = disc(*shape, box)
    top, bottom, left, right = box
    # a line at the edge of a disc is short: less than 1 % of the line's pixels may be lost with it
    step = max(1, min(shape) // 512)
    found = remove_margin(pixels, 16)
    assert abs(found.shape[0] - (bottom - top)) <= 2 * step
    assert abs(found.shape[1] - (right - left)) <= 2 * step
    assert found.max(axis=2).sum() >= 0.999 * pixels.max(axis=2).sum()


def test_the_margin_around_a_rectangle_is_removed_to_the_pixel() -> None:
    pixels = np.zeros((400, 500, 3), np.uint8)
    pixels[30:370, 70:410] = field = np.random.default_rng(0).integers(40, 255, (340, 340, 3), np.uint8)
    assert np.array_equal(remove_margin(pixels, 16), field)


def test_one_bright_channel_is_picture() -> None:
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[20:80, 30:90, 0] = 60  # the edge of a retina is red
    assert remove_margin(pixels, 16).shape == (60, 60, 3)


def test_noise_up_to_the_threshold_is_margin() -> None:
    pixels = np.random.default_rng(0).integers(0, 17, (200, 200, 3), np.uint8)
    pixels[50:150, 40:160] = 17
    assert remove_margin(pixels, 16).shape == (100, 120, 3)
    assert remove_margin(pixels, 15).shape == (200, 200, 3)


def test_hot_pixels_and_a_printed_date_in_the_margin_do_not_count() -> None:
    pixels = disc(600, 800, (50, 550, 150, 650))
    expected = remove_margin(pixels, 16)
    rng = np.random.default_rng(0)
    pixels[rng.integers(0, 40, 20), rng.integers(0, 800, 20)] = 255
    cv2.putText(pixels, "1", (4, 590), cv2.FONT_HERSHEY_SIMPLEX, 0.15, (255, 255, 255))
    assert np.array_equal(remove_margin(pixels, 16), expected)


@pytest.mark.parametrize("grey", [0, 16])
def test_an_all_dark_image_stays_whole(grey: int) -> None:
    pixels = np.full((90, 120, 3), grey, np.uint8)
    assert np.array_equal(remove_margin(pixels, 16), pixels)


def test_the_margin_removed_is_not_removed_again() -> None:
    once = remove_margin(phantoms.render(3).pixels, 16)
    assert np.array_equal(remove_margin(once, 16), once)


@pytest.mark.parametrize(
    ("share", "rows", "columns"),
    [(1.0, (0, 100), (0, 200)), (0.9, (5, 95), (10, 190)), (0.5, (25, 75), (50, 150))],
)
def test_the_centre_crop_keeps_its_share_of_both_sides(
    share: float, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    assert np.array_equal(crop_centre(pixels, share), pixels[slice(*rows), slice(*columns)])


@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (61, 100), (80, 80)])
def test_a_square_has_the_picture_in_its_middle_and_black_around(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (*shape, 3), np.uint8)
    square = pad_to_square(pixels)
    side = max(shape)
    assert square.shape == (side, side, 3)
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    assert np.array_equal(square[top : top + shape[0], left : left + shape[1]], pixels)
    assert np.count_nonzero(square) == pixels.size


@pytest.mark.parametrize(("height", "width"), [(600, 900), (480, 640), (700, 700)])
def test_a_circle_stays_round_when_the_field_is_clipped(height: int, width: int) -> None:
    pixels = np.full((height, width, 3), 40, np.uint8)  # a clipped field fills the frame
    cv2.circle(pixels, (width // 2, height // 2), 150, (250, 250, 250), -1)
    bright = preprocess(pixels, PreprocessSpec(size_px=300))[..., 1] > 140
    high, wide = np.ptp(np.flatnonzero(bright.any(1))) + 1, np.ptp(np.flatnonzero(bright.any(0))) + 1
    assert abs(int(high) - int(wide)) <= 1
    assert high == pytest.approx(300 * 301 / max(height, width), abs=2)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(16, 70),
    st.floats(0.01, 1),
    st.integers(0, 254),
    st.integers(0, 2**32 - 1),
)
def test_any_picture_becomes_a_square_of_the_size(
    height: int, width: int, size_px: int, share: float, threshold: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    before = pixels.copy()
    name = ILLUMINATIONS[seed % len(ILLUMINATIONS)]
    spec = PreprocessSpec(size_px, threshold, share if seed % 2 else None, share, bool(seed % 3), name)
    result = preprocess(pixels, spec)
    assert (result.shape, result.dtype) == ((size_px, size_px, 3), np.uint8)
    assert np.array_equal(pixels, before)


EVERYTHING = PreprocessSpec(64, disc_crop=0.5, centre_crop=0.9, erase_vessels=True, illumination="clahe")
ALWAYS = ["original", "margin removed", "resized"]


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (PreprocessSpec(64), ALWAYS),
        (PreprocessSpec(64, centre_crop=0.9), ["original", "margin removed", "centre crop", "resized"]),
        (PreprocessSpec(64, disc_crop=0.4), ["original", "margin removed", "disc crop", "resized", "circle"]),
        (PreprocessSpec(64, erase_vessels=True), ["original", "margin removed", "vessels erased", "resized"]),
        (PreprocessSpec(64, illumination="grey_world"), [*ALWAYS, "grey_world"]),
        (
            EVERYTHING,
            [*ALWAYS[:2], "vessels erased", "disc crop", "centre crop", "resized", "circle", "clahe"],
        ),
    ],
)
def test_only_the_steps_that_are_asked_for_are_taken(spec: PreprocessSpec, names: list[str]) -> None:
    pixels = phantoms.render(5).pixels
    steps = list(preprocess_steps(pixels, spec))
    assert [name for name, _ in steps] == names
    assert np.array_equal(steps[0][1], pixels)
    assert np.array_equal(steps[-1][1], preprocess(pixels, spec))
    for (name, before), (_, after) in pairwise(steps[1:]):
        assert before.shape != after.shape or not np.array_equal(before, after), name


@pytest.mark.parametrize("name", ILLUMINATIONS)
def test_the_light_is_taken_out_of_the_resized_picture(name: Illumination) -> None:
    pixels = phantoms.render(5).pixels
    plain = preprocess(pixels, PreprocessSpec(64))
    expected = METHODS[name](plain) if name != "none" else plain
    assert np.array_equal(preprocess(pixels, PreprocessSpec(64, illumination=name)), expected)


@pytest.mark.parametrize("place", [(0.5, 0.5), (0.4, 0.7), (0.0, 0.0), (1.0, 1.0), (0.02, 0.9)])
def test_what_is_around_a_place_comes_into_the_middle_and_beyond_it_is_black(
    place: tuple[float, float],
) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (100, 200, 3), np.uint8)
    cropped = crop_around(pixels, Disc(*place), 0.3)
    assert cropped.shape == (60, 60, 3)
    wide = np.pad(pixels, ((60, 60), (60, 60), (0, 0)))
    top, left = round(place[1] * 100) + 30, round(place[0] * 200) + 30
    assert np.array_equal(cropped, wide[top : top + 60, left : left + 60])


def test_of_a_cropped_picture_the_share_is_that_of_the_whole_field() -> None:
    pixels = np.full((100, 100, 3), 200, np.uint8)
    assert len(crop_around(pixels, Disc(0.5, 0.5, field=2.0), 0.25)) == 50
    assert len(crop_around(pixels, Disc(0.5, 0.5), 0.001)) == 1


def test_beyond_the_circle_all_is_black_and_within_nothing_changes() -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (101, 101, 3), np.uint8)
    kept = keep_circle(pixels)
    away = np.hypot(*(np.mgrid[:101, :101] - 50))
    assert np.array_equal(kept[away <= 50], pixels[away <= 50])
    assert not kept[away >= 51].any()


def test_the_disc_is_in_the_middle_of_its_crop() -> None:
    for seed in (0, 1, 4, 7):
        field = remove_margin(phantoms.render(seed).pixels, 16)
        cropped = preprocess(field, PreprocessSpec(96, disc_crop=0.3))
        wide = preprocess(field, PreprocessSpec(96, disc_crop=0.6))
        inner = cv2.resize(wide[24:72, 24:72], (96, 96), interpolation=cv2.INTER_CUBIC)
        middle = np.s_[20:76, 20:76]
        assert np.corrcoef(cropped[middle].ravel(), inner[middle].ravel())[0, 1] > 0.97, seed
        found = find_disc(field)
        place = np.array([found.y * field.shape[0], found.x * field.shape[1]]).astype(int)
        assert np.abs(field[tuple(place)].astype(int) - cropped[48, 48]).max() < 40, seed


def test_the_same_bytes_give_the_same_pixels_in_any_wrapping() -> None:
    pixels = phantoms.render(4).pixels
    spec = PreprocessSpec(size_px=128)
    expected = preprocess(pixels, spec)
    for format_ in ("PNG", "TIFF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format_)
        assert np.array_equal(preprocess_encoded(buffer.getvalue(), spec), expected)


def test_a_large_photograph_looks_the_same_decoded_whole_or_at_a_fraction() -> None:
    spec = PreprocessSpec(160, disc_crop=0.3)
    for seed in (0, 2, 5):
        large = cv2.resize(phantoms.render(seed).pixels, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
        data = cv2.imencode(".jpg", large[..., ::-1])[1].tobytes()
        whole = decode(data)
        assert min(whole.shape[:2]) >= 2 * spec.least_px
        field = remove_margin(whole, spec.margin_threshold)
        expected = keep_circle(
            cv2.resize(
                crop_around(field, find_disc(field), 0.3, 160), (160, 160), interpolation=cv2.INTER_AREA
            )
        )
        assert np.abs(preprocess_encoded(data, spec).astype(int) - expected).mean() < 1, seed


@pytest.mark.parametrize("shift", [0.25, 0.5, 0.75])
def test_a_crop_lies_between_the_pixels(shift: float) -> None:
    ramp = np.repeat(np.arange(0, 200, 4, dtype=np.uint8)[None, :, None], 50, axis=0).repeat(3, axis=2)
    first, second = (crop_around(ramp, Disc(x / 50, 0.5), 0.4) for x in (25, 25 + shift))
    assert (second.astype(float) - first == 4 * shift).all()


def test_what_cannot_be_decoded_is_not_preprocessed() -> None:
    with pytest.raises(ImageError, match="no readable JPEG"):
        preprocess_encoded(b"text", PreprocessSpec())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"size_px": 15}, "size_px is 15; choose 16 to 4096"),
        ({"size_px": 5000}, "size_px is 5000"),
        ({"margin_threshold": 255}, "margin_threshold is 255; choose 0 to 254"),
        ({"margin_threshold": -1}, "margin_threshold is -1"),
        ({"centre_crop": 0.0}, r"centre_crop is 0\.0; choose a share above 0, up to 1"),
        ({"centre_crop": 1.1}, r"centre_crop is 1\.1"),
        ({"centre_crop": float("nan")}, "centre_crop is nan"),
        ({"disc_crop": 0.0}, r"disc_crop is 0\.0; choose a share above 0, up to 1"),
        ({"disc_crop": 1.1}, r"disc_crop is 1\.1"),
        ({"disc_crop": float("nan")}, "disc_crop is nan"),
    ],
)
def test_an_impossible_spec_is_refused(values: dict[str, float], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        PreprocessSpec(**values)


def summary(pixels: np.ndarray) -> dict[str, list]:
    """Describe pixels in a few numbers: an 8 x 8 thumbnail, mean and deviation of each colour."""
    thumbnail = cv2.resize(pixels.astype(np.float32), (8, 8), interpolation=cv2.INTER_AREA)
    values = {"thumbnail": thumbnail, "mean": pixels.mean((0, 1)), "std": pixels.std((0, 1))}
    return {name: value.round(2).tolist() for name, value in values.items()}


def test_phantoms_look_as_they_did(pytestconfig: pytest.Config) -> None:
    pictures = {seed: phantoms.render(seed).pixels for seed in GOLDEN_SEEDS}
    found = {
        f"phantom {seed}, {name}": summary(preprocess(pixels, spec))
        for seed, pixels in pictures.items()
        for name, spec in GOLDEN_SPECS.items()
    }
    golden = json.loads(GOLDEN.read_text())
    moved = {name: most_moved(found.get(name), golden[name]) for name in golden if name != "revision"}
    if pytestconfig.getoption("--refresh-golden"):
        assert golden["revision"] < REVISION or max(moved.values()) <= 1, "raise REVISION first"
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
        GOLDEN.write_text(f'{{\n"revision": {REVISION},\n{lines}\n}}\n')
        return
    assert golden["revision"] == REVISION
    assert found.keys() == moved.keys()
    assert max(moved.values()) <= 1, f"grey levels: {moved}"


def most_moved(found: dict[str, list] | None, golden: dict[str, list]) -> float:
    """Return the largest difference of two summaries, in grey levels; without bound where one is gone."""
    if found is None:
        return np.inf
    return max(float(np.abs(np.array(found[name]) - np.array(golden[name])).max()) for name in golden)
