"""Maps through the real tritonserver: a known cause is found, and other weights give another map.

The sanity check: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018.
"""

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from tests.conftest import command
from tests.integration.conftest import Row, read_rows

from fundus_client.explaining.area import Area
from fundus_client.servers import reference_repository
from fundus_core import phantoms
from fundus_core.ensemble import MODEL_ONNX, fold_model, read_manifest
from fundus_core.phantoms import CAMERAS, Plan

onnx = pytest.importorskip("onnx", reason="needs the extra `export`: onnx")
from onnx import numpy_helper  # noqa: E402  after the line that may skip
from tests.bundles import cover_traces  # noqa: E402

if importlib.util.find_spec("pytriton") is None:
    pytest.skip("needs the extra `embedded`: the wheel's tritonserver", allow_module_level=True)

MASKS = 200
SMALL = CAMERAS[2]  # 512 pixels


@dataclass(frozen=True)
class Explained:
    """One finished `fundus-client explain`."""

    code: int
    said: str
    rows: list[Row]
    folder: Path

    def row_of(self, image_id: str) -> Row:
        return next(row for row in self.rows if row["image_id"] == image_id)

    def heat(self, image_id: str) -> np.ndarray:
        return np.load(self.folder / f"{image_id}.heat.npy")


def explain(folder: Path, *arguments: object) -> Explained:
    done = command("client", "explain", *arguments, "--output", folder, "--masks", MASKS)
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    return Explained(done.returncode, said, read_rows(folder / "explain.csv"), folder)


def large_cup(seed: int) -> Plan:
    return replace(phantoms.plan(seed, 0.7), camera=SMALL)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms with large cups, and a file that is no image."""
    folder = tmp_path_factory.mktemp("explained") / "images"
    folder.mkdir()
    for seed in (2, 5):
        drawn = large_cup(seed)
        (folder / f"{seed}.jpg").write_bytes(phantoms.encode(phantoms.draw(drawn).pixels, SMALL))
    (folder / "text.jpg").write_text("no photograph")
    return folder


def shuffled(array: np.ndarray) -> np.ndarray:
    """Return the same weights in another order."""
    return np.random.default_rng(0).permutation(array.ravel()).reshape(array.shape)


def bundle(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Copy the reference ensemble with a change in every fold's weights."""
    shutil.copytree(reference_repository(), folder)
    spec = read_manifest(folder)
    for fold in spec.folds:
        path = folder / fold_model(fold.index) / MODEL_ONNX
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype.kind == "f" and values.size > 1:
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(values)), tensor.name))
        onnx.save(model, path)
    cover_traces(folder, spec)
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("reference") / "repository", lambda values: values)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, images: Path, reference: Path) -> Explained:
    return explain(tmp_path_factory.mktemp("first") / "out", images, "--repository", reference)


def test_every_input_has_a_row_and_a_bad_one_a_reason(first: Explained) -> None:
    assert first.code == 3
    statuses = [(row["image_id"], row["status"]) for row in first.rows]
    assert statuses == [("2.jpg", "explained"), ("5.jpg", "explained"), ("text.jpg", "failed")]
    assert first.rows[2]["reason"].startswith("not_an_image: ")
    assert "explained 2 of 3 files" in first.said


def test_the_picture_as_it_is_sent_scores_as_the_file(first: Explained) -> None:
    assert [float(row["difference"]) for row in first.rows[:2]] == pytest.approx([0, 0], abs=1e-5)


@pytest.mark.parametrize("seed", [2, 5])
def test_the_cause_is_found_where_it_was_drawn(first: Explained, seed: int) -> None:
    """Only the cup tells phantoms apart: the heat is on the disc."""
    row = first.row_of(f"{seed}.jpg")
    on_disc = disc_cells(row, large_cup(seed))
    heat = np.abs(first.heat(row["image_id"]))
    seen = np.isfinite(heat)
    assert 0.1 < on_disc[seen].mean() < 0.4
    assert heat[on_disc].mean() > 2 * heat[seen & ~on_disc].mean()


def disc_cells(row: Row, drawn: Plan) -> np.ndarray:
    """Return which cells (G, G) of a map are on the disc that was drawn."""
    area = Area(*(int(row[name]) for name in ("left_px", "top_px", "width_px", "height_px")), is_round=True)
    width, height = drawn.camera.width_px, drawn.camera.height_px
    degree = drawn.field_deg / (drawn.camera.field * width)
    cells = (np.arange(64) + 0.5) / 64
    x = (area.left_px + cells * area.width_px - width / 2) * degree * (-1 if drawn.eye == "left" else 1)
    y = (area.top_px + cells * area.height_px - height / 2) * degree
    across = (x + drawn.gaze.real - drawn.disc.real) / drawn.disc_radius[0]
    along = (y + drawn.gaze.imag - drawn.disc.imag) / drawn.disc_radius[1]
    return np.hypot(across[None], along[:, None]) < 1.1


def test_the_same_bundle_gives_the_same_map_and_other_weights_another(
    first: Explained, tmp_path: Path, images: Path, reference: Path
) -> None:
    again = explain(tmp_path / "again", images / "2.jpg", "--repository", reference)
    random = explain(tmp_path / "random", images / "2.jpg", "--repository", bundle(tmp_path / "b", shuffled))
    assert (again.code, random.code) == (0, 0)
    heat, same, other = (each.heat("2.jpg") for each in (first, again, random))
    seen = np.isfinite(heat)
    assert spearmanr(heat[seen], same[seen]).statistic > 0.999
    assert spearmanr(heat[seen], other[seen]).statistic < 0.5
    assert np.abs(other[seen]).max() < 0.2 * np.abs(heat[seen]).max()
    assert random.rows[0]["bundle_digest"] != first.rows[0]["bundle_digest"]
