import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fundus_core import phantoms
from fundus_core.disc import (
    CROPPED,
    DISC_RADIUS_PX,
    MOST,
    ROUND,
    SEARCH_PX,
    Disc,
    Place,
    SizeRule,
    find_disc,
)
from fundus_core.files import find_images
from fundus_core.images import decode
from fundus_core.preprocess import crop_around, keep_circle, remove_margin

SEEDS = range(40)
SOURCES = ("hygd", "odir-lowres", "airogs-light")
Pixels = np.ndarray
Change = Callable[[Pixels], Pixels]


@pytest.fixture(scope="module")
def fields() -> dict[int, Pixels]:
    """The phantoms of all cameras and both eyes, without their margins."""
    return {seed: remove_margin(phantoms.render(seed).pixels, 16) for seed in SEEDS}


def truth(seed: int) -> tuple[Disc, float]:
    """Return where a phantom's disc is once the margin is gone, and its radius in shares of the width."""
    drawn = phantoms.plan(seed)
    camera = drawn.camera
    diameter = camera.field * camera.width_px
    away = (drawn.disc - drawn.gaze) / drawn.field_deg * diameter  # from the middle of the frame
    width, height = min(diameter, camera.width_px), min(diameter, camera.height_px)
    x = -away.real if drawn.eye == "left" else away.real
    radius = drawn.disc_radius[1] / drawn.field_deg * diameter
    return Disc(0.5 + x / width, 0.5 + away.imag / height), radius / width


def distance(first: Disc, second: Disc, pixels: Pixels) -> float:
    """Return the distance of two places in shares of the width."""
    height, width = pixels.shape[:2]
    return float(np.hypot(first.x - second.x, (first.y - second.y) * height / width))


def resized(pixels: Pixels, side: int) -> Pixels:
    scale = side / max(pixels.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=method)


def compressed(pixels: Pixels) -> Pixels:
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)


def test_the_disc_of_a_phantom_is_found_within_its_radius(fields: dict[int, Pixels]) -> None:
    hits = [
        distance(find_disc(pixels), truth(seed)[0], pixels) <= truth(seed)[1]
        for seed, pixels in fields.items()
    ]
    assert np.mean(hits) >= 0.95
    eyes = {phantoms.plan(seed).eye for seed in SEEDS}
    places = np.array([[truth(seed)[0].x, truth(seed)[0].y] for seed in SEEDS])
    assert eyes == {"left", "right"}
    assert (np.ptp(places, axis=0) > (0.4, 0.1)).all()  # no fixed place would do


def test_a_mirrored_picture_has_its_disc_at_the_mirrored_place(fields: dict[int, Pixels]) -> None:
    for seed, pixels in fields.items():
        found, radius = find_disc(pixels), truth(seed)[1]
        across = find_disc(np.ascontiguousarray(pixels[:, ::-1]))
        down = find_disc(np.ascontiguousarray(pixels[::-1]))
        assert distance(Disc(1 - across.x, across.y), found, pixels) < 0.3 * radius, seed
        assert distance(Disc(down.x, 1 - down.y), found, pixels) < 0.3 * radius, seed


def test_the_place_does_not_depend_on_the_cameras_pixels(fields: dict[int, Pixels]) -> None:
    for seed, pixels in fields.items():
        few, many = find_disc(resized(pixels, 400)), find_disc(resized(pixels, 2000))
        assert distance(few, many, pixels) < 0.3 * truth(seed)[1], seed


def test_the_disc_is_found_in_weak_light_of_another_colour(fields: dict[int, Pixels]) -> None:
    dim = np.array([0.6, 0.45, 0.5])
    for seed, pixels in fields.items():
        found = find_disc((pixels * dim).astype(np.uint8))
        assert distance(found, truth(seed)[0], pixels) <= truth(seed)[1], seed


def test_a_round_field_is_all_there_and_a_cropped_one_is_known_to_be_larger(
    fields: dict[int, Pixels],
) -> None:
    hits, sizes = [], []
    for seed, pixels in fields.items():
        assert find_disc(pixels).field == 1, seed
        whole, radius = truth(seed)
        height, width = pixels.shape[:2]
        side = round(0.45 * width)  # a square within the field, the disc aside of its middle
        left = round(whole.x * width - (0.35 if whole.x < 0.5 else 0.65) * side)
        top = round(whole.y * height - 0.55 * side)
        left, top = min(max(0, left), width - side), min(max(0, top), height - side)
        cropped = pixels[top : top + side, left : left + side]
        there = Disc((whole.x * width - left) / side, (whole.y * height - top) / side)
        found = find_disc(cropped)
        hits.append(distance(found, there, cropped) <= radius * width / side)
        sizes.append(found.field)
    assert np.mean(hits) >= 0.9
    assert np.mean([1.4 <= size <= 4 for size in sizes]) >= 0.9  # it is 2.2


@pytest.mark.parametrize(("name", "rule"), [("round", ROUND), ("cropped", CROPPED)])
def test_the_rules_are_those_that_were_fitted(name: str, rule: SizeRule) -> None:
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "fields.json"
    fitted = json.loads(results.read_text())[name]["weights"]
    assert [*rule.bright, *rule.vessels, rule.start] == fitted
    assert len(rule.fields) == len(rule.bright) == len(rule.vessels)


def test_a_rule_knows_how_little_and_how_much_a_picture_can_show() -> None:
    rule = SizeRule((1.0, 2.0), (0.0, 1.0), (0.0, 0.0), start=-0.5, least=0.2, beyond_px=0)

    def field(dim: float, bright: float = 1.0) -> float:
        return rule.field((Place(dim, 0.0, Disc(0.5, 0.5)), Place(bright, 0.0, Disc(0.5, 0.5))))

    assert field(2.0) == 1  # half as bright at size 2: a logarithm of 0
    assert field(1.0) == pytest.approx(np.exp(0.5), abs=0.01)
    assert field(0.0, 0.0) == 1
    far = SizeRule((1.0,), (9.0,), (0.0,), start=0.0, least=0.0, beyond_px=0)
    assert far.field((Place(1.0, 0.0, Disc(0.5, 0.5)),)) == MOST


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_how_much_of_a_real_field_a_crop_shows(share: float, real_fields: dict[str, list[Pixels]]) -> None:
    for source, pictures in real_fields.items():
        errors = [
            np.log(find_disc(crop_around(field, place(field), share)).field * share) for field in pictures
        ]
        assert abs(np.mean(errors)) < 0.2, source
        assert np.mean(np.abs(errors) < 0.35) > 0.75, source  # training changes the scale as much


def test_a_camera_with_a_narrow_field_is_told_from_one_with_a_wide_field(
    real_fields: dict[str, list[Pixels]],
) -> None:
    for source, pictures in real_fields.items():
        whole = [find_disc(field).field for field in pictures]
        narrow = [find_disc(seen_at_30_degrees(field)).field for field in pictures]
        assert np.mean(np.array(whole) == 1) > 0.7, source
        assert np.mean(np.array(narrow) > 1.2) > 0.6, source  # it is 1.5


def place(field: Pixels) -> Disc:
    """Return the disc of a whole field."""
    found = find_disc(field)
    return Disc(found.x, found.y)


def seen_at_30_degrees(field: Pixels) -> Pixels:
    """Return what a camera sees of a field of 45 degrees, the disc halfway from the middle to its edge."""
    disc = place(field)
    between = Disc((disc.x + 0.5) / 2, (disc.y + 0.5) / 2)
    return keep_circle(crop_around(field, between, 2 / 3))


@pytest.fixture(scope="module")
def real_fields(photographs: Path) -> dict[str, list[Pixels]]:
    """Forty real photographs of each source, without their margins."""
    return {source: chosen(photographs / source) for source in SOURCES}


def chosen(folder: Path) -> list[Pixels]:
    paths = [ref.path for ref in find_images([folder])]
    return [
        remove_margin(decode(paths[i].read_bytes()), 16)
        for i in np.linspace(0, len(paths) - 1, 40).astype(int)
    ]


@pytest.mark.parametrize("grey", [0, 16])
def test_in_a_dark_picture_the_answer_is_the_middle(grey: int) -> None:
    assert find_disc(np.full((300, 400, 3), grey, np.uint8)) == Disc(0.5, 0.5)


@pytest.mark.parametrize(
    "shape", [(16, 16), (1, 1), (3, 5), (1, 500), (500, 1), (8, 2000), (2000, 8), (16, 600), (64, 64)]
)
@pytest.mark.parametrize("look", ["flat", "noise", "white"])
def test_a_picture_of_any_shape_has_an_answer_inside(shape: tuple[int, int], look: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    pixels = {"flat": np.full_like(noise, 90), "noise": noise, "white": np.full_like(noise, 255)}[look]
    before = pixels.copy()
    found = find_disc(pixels)
    assert 0 <= found.x <= 1
    assert 0 <= found.y <= 1
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("source", SOURCES)
def test_copies_of_a_real_photograph_agree(source: str, real_fields: dict[str, list[Pixels]]) -> None:
    pictures = real_fields[source]
    changes: dict[str, Change] = {
        "mirrored": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
        "compressed": compressed,
        "resized": lambda pixels: resized(pixels, 330),
    }
    radius = DISC_RADIUS_PX / SEARCH_PX
    for name, change in changes.items():
        hits = []
        for pixels in pictures:
            found, again = find_disc(pixels), find_disc(change(pixels))
            again = Disc(1 - again.x, again.y) if name == "mirrored" else again
            hits.append(distance(found, again, pixels) <= radius)
        assert np.mean(hits) >= 0.95, name
