import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fundus_core import phantoms
from fundus_core.errors import UsageError

COUNT = 36


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "samples"
    written = list(phantoms.write_samples(folder, COUNT))
    assert written == [phantoms.plan(seed).image_id for seed in range(COUNT)]
    return folder


def read_labels(folder: Path) -> list[dict[str, str]]:
    with (folder / phantoms.LABELS_FILE).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"), np.uint8)


def paleness(pixels: NDArray[np.uint8], plan: phantoms.Plan, size_px: int = 256) -> float:
    """Green light between the reach of a small and of a large cup, relative to that of the rim."""
    scale = size_px / (plan.camera.field * plan.camera.width_px)
    green = cv2.resize(pixels[..., 1], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    y, x = (axis - (size - 1) / 2 for axis, size in zip(np.indices(green.shape), green.shape, strict=True))
    mirror = -1 if plan.eye == "left" else 1
    place = (mirror * x + 1j * y) * plan.field_deg / size_px + plan.gaze - plan.disc
    radius = np.hypot(place.real / plan.disc_radius[0], place.imag / plan.disc_radius[1])
    between, rim = ((radius > 0.5) & (radius < 0.65)), ((radius > 0.88) & (radius < 1))
    return float(np.median(green[between]) / np.median(green[rim]))


def test_a_seed_always_gives_the_same_picture() -> None:
    first, again, other = phantoms.render(5), phantoms.render(5), phantoms.render(6)
    assert np.array_equal(first.pixels, again.pixels)
    assert phantoms.plan(5) == phantoms.plan(5)
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize("seed", [5, 6])
def test_a_phantom_with_another_ratio_differs_in_its_cup_alone(seed: int) -> None:
    drawn, other = phantoms.plan(seed), phantoms.plan(seed, 0.7)
    assert phantoms.plan(seed, drawn.cup_to_disc) == drawn
    assert (other.cup_to_disc, other.glaucoma) == (0.7, 1)
    cup = ("cup_to_disc", "glaucoma", "cup", "cup_radius")
    assert all(vars(other)[name] == value for name, value in vars(drawn).items() if name not in cup)
    before, after = phantoms.render(seed).pixels, phantoms.draw(other).pixels
    assert 0 < (before != after).any(axis=2).mean() < 0.25


@pytest.mark.parametrize("camera", phantoms.CAMERAS, ids=lambda camera: camera.name)
def test_a_camera_delivers_its_size_and_a_black_margin(camera: phantoms.Camera) -> None:
    seed = next(seed for seed in range(1000) if phantoms.plan(seed).camera == camera)
    phantom = phantoms.render(seed)
    assert phantom.pixels.shape == (camera.height_px, camera.width_px, 3)
    assert phantom.pixels.dtype == np.uint8
    assert phantom.camera == camera.name
    assert phantom.pixels[0, 0].max() == 0
    assert phantom.pixels[camera.height_px // 2, camera.width_px // 2].max() > 40


def test_the_label_follows_the_ratio_and_is_balanced() -> None:
    plans = [phantoms.plan(seed) for seed in range(200)]
    assert sum(plan.glaucoma for plan in plans) == 100
    assert all(plan.glaucoma == (plan.cup_to_disc >= phantoms.GLAUCOMA_CUP_TO_DISC) for plan in plans)
    assert all(plan.cup_radius[1] == plan.cup_to_disc * plan.disc_radius[1] for plan in plans)
    assert not any(0.5 < plan.cup_to_disc < 0.68 for plan in plans)


def test_nothing_but_the_cup_predicts_the_label() -> None:
    plans = [phantoms.plan(seed) for seed in range(2000)]
    label = [plan.glaucoma for plan in plans]
    nuisances = {
        "seed": [plan.seed % 2 for plan in plans],
        "left": [plan.eye == "left" for plan in plans],
        "width": [plan.camera.width_px for plan in plans],
        "jpeg": [plan.camera.suffix == ".jpg" for plan in plans],
        "field": [plan.field_deg for plan in plans],
        "gaze": [plan.gaze.real for plan in plans],
        "disc": [plan.disc_radius[1] for plan in plans],
    } | {camera.name: [plan.camera == camera for plan in plans] for camera in phantoms.CAMERAS}
    for name, values in nuisances.items():
        assert abs(np.corrcoef(np.asarray(values, float), label)[0, 1]) < 0.07, name


def test_labels_match_the_files(samples: Path) -> None:
    rows = read_labels(samples)
    assert tuple(rows[0]) == phantoms.LABELS_COLUMNS
    assert {row["image_id"] for row in rows} | {"labels.csv"} == {path.name for path in samples.iterdir()}
    assert sum(row["glaucoma"] == "1" for row in rows) == COUNT // 2
    assert all((float(row["cup_to_disc"]) >= 0.6) == (row["glaucoma"] == "1") for row in rows)
    assert len({row["patient_id"] for row in rows}) == COUNT
    assert all(row["patient_id"].startswith("synthetic-") for row in rows)


def test_every_file_can_be_read_and_brightness_says_nothing(samples: Path) -> None:
    rows = read_labels(samples)
    brightness = [read_pixels(samples / row["image_id"]).mean() for row in rows]
    assert abs(np.corrcoef(brightness, [int(row["glaucoma"]) for row in rows])[0, 1]) < 0.35


def test_the_cup_is_told_apart_at_256_px(samples: Path) -> None:
    plans = [phantoms.plan(seed) for seed in range(COUNT)]
    pale = [(paleness(read_pixels(samples / plan.image_id), plan), plan.glaucoma) for plan in plans]
    assert min(value for value, glaucoma in pale if glaucoma) > max(
        value for value, glaucoma in pale if not glaucoma
    )


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
def test_each_format_keeps_the_picture(suffix: str, tmp_path: Path) -> None:
    seed = next(seed for seed in range(1000) if phantoms.plan(seed).camera.suffix == suffix)
    (image_id,) = phantoms.write_samples(tmp_path, 1, first_seed=seed)
    assert Path(image_id).suffix == suffix
    drawn = phantoms.render(seed).pixels.astype(float)
    assert abs(read_pixels(tmp_path / image_id) - drawn).mean() < (3 if suffix == ".jpg" else 1e-9)


def test_unusable_arguments_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "patient.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="not an empty folder"):
        phantoms.write_samples(tmp_path, 1)
    with pytest.raises(UsageError, match="Cannot write 0 samples"):
        phantoms.write_samples(tmp_path / "new", 0)
    with pytest.raises(UsageError, match="from seed -1"):
        phantoms.write_samples(tmp_path / "new", 1, first_seed=-1)
    assert [path.name for path in tmp_path.iterdir()] == ["patient.jpg"]


def test_a_folder_left_unfinished_has_no_labels(tmp_path: Path) -> None:
    next(phantoms.write_samples(tmp_path / "samples", 2))
    assert not (tmp_path / "samples" / phantoms.LABELS_FILE).exists()
