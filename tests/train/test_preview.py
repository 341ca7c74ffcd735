import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.conftest import command, succeed

from fundus_core import phantoms
from fundus_core.errors import UsageError
from fundus_core.files import ImageRef
from fundus_core.preprocess import PreprocessSpec, preprocess
from fundus_train.commands.preview import _save
from fundus_train.preview import GAP_PX, PAPER, TEXT_PX, TILE_PX, VERSIONS, draw_sheet, follow
from fundus_train.recipe import Augment, Network, Recipe

LINE_PX, COLUMN_PX = 2 * TEXT_PX + TILE_PX + GAP_PX, TILE_PX + GAP_PX
EVERYTHING = """
name = "everything"
seed = 7
[network]
architecture = "test_efficientnet"
[preprocess]
size_px = 240
disc_crop = 0.6
centre_crop = 0.9
erase_vessels = true
illumination = "clahe"
[augment]
rotation_deg = 20
colour = 0.2
"""
STEPS = (
    "original",
    "margin removed",
    "vessels erased",
    "disc crop",
    "centre crop",
    "resized",
    "circle",
    "clahe",
)
SEED = 2  # a lossless picture, 1024 x 768


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preview") / "phantom"
    (name,) = phantoms.write_samples(folder, 1, SEED)
    return folder / name


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "everything.toml"
    path.write_text(EVERYTHING)
    return path


def plan(augment: Augment, **preprocess: object) -> Recipe:
    spec = PreprocessSpec(size_px=TILE_PX, **preprocess)  # type: ignore[arg-type]
    return Recipe("x", Network("resnet18"), preprocess=spec, augment=augment)


def sheet_size(n_rows: int, n_columns: int) -> tuple[int, int]:
    return (n_rows * LINE_PX + GAP_PX, n_columns * COLUMN_PX + GAP_PX)


def tile_at(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = row * LINE_PX + GAP_PX + 2 * TEXT_PX, column * COLUMN_PX + GAP_PX
    return sheet[top : top + TILE_PX, left : left + TILE_PX]


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_each_step_of_the_recipe_is_a_column(phantom: Path) -> None:
    spec = {"disc_crop": 0.6, "centre_crop": 0.9, "erase_vessels": True, "illumination": "clahe"}
    row = follow(ImageRef("a", phantom), plan(Augment(), **spec))
    names = [name.rpartition(",")[0] for name, _ in row.tiles]
    assert names == [*STEPS, *(f"training {n}" for n in range(1, VERSIONS + 1))]
    assert row.tiles[0][0] == "original, 1024 x 768"


def test_a_plain_recipe_has_three_columns(phantom: Path) -> None:
    row = follow(ImageRef("a", phantom), plan(Augment(flips=False)))
    assert [name.rpartition(",")[0] for name, _ in row.tiles] == ["original", "margin removed", "resized"]


def test_the_last_step_is_what_a_network_sees(phantom: Path) -> None:
    recipe = plan(Augment(flips=False), illumination="grey_world")
    sheet = draw_sheet([follow(ImageRef("a", phantom), recipe)] * 2)
    expected = preprocess(phantoms.render(SEED).pixels, recipe.preprocess)
    assert sheet.shape == (*sheet_size(2, 4), 3)
    for row in range(2):
        assert np.array_equal(tile_at(sheet, row, 3), expected)
    original = tile_at(sheet, 0, 0)
    assert (original[:30] == PAPER).all(), "a wide picture keeps its shape"
    assert abs(original[30:-30].astype(int).mean() - phantoms.render(SEED).pixels.mean()) < 1


def test_training_versions_differ_and_come_again(phantom: Path) -> None:
    recipe = plan(Augment(rotation_deg=20, colour=0.3))
    first, again = (follow(ImageRef("a", phantom), recipe).tiles[-VERSIONS:] for _ in range(2))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0][1], first[1][1])


def test_a_file_that_cannot_be_read_has_its_reason(phantom: Path, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "b.png").write_bytes(phantom.read_bytes())
    (folder / "a.jpg").write_text("no picture")
    (folder / "ünreadable.png").write_bytes(phantom.read_bytes()[:5000])
    done = command("train", "preview", recipe, folder, "--output", tmp_path / "sheet.png")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.splitlines() == [
        "drawn 1 of 3 files",
        "failed 1: corrupt",
        "failed 1: not_an_image",
        f"sheet  {tmp_path / 'sheet.png'}",
    ]
    sheet = read(tmp_path / "sheet.png")
    assert sheet.shape[:2] == sheet_size(3, len(STEPS) + VERSIONS)
    for row in (0, 2):
        assert len(np.unique(tile_at(sheet, row, 0))) > 2, "a sentence"
        assert len(np.unique(tile_at(sheet, row, 1))) == 1, "nothing"
    assert tile_at(sheet, 1, len(STEPS) + VERSIONS - 1).std() > 10


def test_the_first_so_many_are_drawn(phantom: Path, recipe: Path, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(phantom.read_bytes())
    output = tmp_path / "sheet.jpg"
    said = succeed("train", "preview", recipe, tmp_path, "--count", 2, "--output", output)
    assert said.splitlines()[0] == "drawn 2 of 2 files"
    assert read(output).shape[:2] == sheet_size(2, len(STEPS) + VERSIONS)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere",), "There is no file or folder"),
        (("empty",), "There is no image below"),
        (("a.png", "--output", "no/such/folder.png"), "give a file name in a folder that exists"),
        (("a.png", "--output", "sheet.txt"), "End it in .png or .jpg"),
        (("a.png", "--output", "sheet.jfif"), "End it in .png or .jpg"),
        (("a.png", "--output", "sheet.pbm"), "End it in .png or .jpg"),
        (("a.png", "--count", "0"), "--count"),
    ],
)
def test_what_cannot_be_drawn_is_a_usage_error(
    recipe: Path, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    done = command("train", "preview", recipe, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "empty", "everything.toml"]


def test_a_sheet_that_its_format_cannot_hold_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be 65501 pixels high"):
        _save(np.zeros((65501, 1, 3), np.uint8), tmp_path / "sheet.jpg")
    assert not list(tmp_path.iterdir())


def test_a_sheet_needs_no_torch(recipe: Path, phantom: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from fundus_train.cli import main; main()"
    line = ["preview", recipe, phantom, "--output", tmp_path / "sheet.png"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, line)], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    recipe.write_text(EVERYTHING + "augmix = 3\n")
    done = subprocess.run([sys.executable, "-c", code, *map(str, line)], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"pip install 'fundus-triton[train]'" in done.stderr
