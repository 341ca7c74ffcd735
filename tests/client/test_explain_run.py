"""A run of `fundus-client explain` over photographs: a row of each, its files, its options."""

import asyncio
import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from tests.client.test_explain import DISC, Ensemble, picture, png

from fundus_client.cli import main
from fundus_client.explaining.area import Subject
from fundus_client.explaining.explain import Explainer
from fundus_client.explaining.masks import MAP_CELLS, Heat
from fundus_client.explaining.picture import AGAINST, FOR, PANEL_PX, draw
from fundus_client.explaining.run import explain_all, label_index
from fundus_client.explaining.table import COLUMNS
from fundus_client.scorer import Prediction
from fundus_core.errors import ServerUnreachableError, UsageError
from fundus_core.files import find_images
from fundus_core.images import decode


def run(pool: Ensemble, folder: Path, output: Path) -> list[dict[str, str]]:
    refs = list(find_images([folder]))
    explainer = Explainer(pool, 0, 50)
    asyncio.run(explain_all(explainer, refs, output, lambda: lambda: None))
    return table(output)


def table(output: Path) -> list[dict[str, str]]:
    with (output / "explain.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_that_is_stopped_leaves_a_row_of_every_input(folder: Path, tmp_path: Path) -> None:
    begun: list[int] = []

    def begin() -> Callable[[], None]:
        if begun:
            raise asyncio.CancelledError
        begun.append(1)
        return lambda: None

    explainer = Explainer(Ensemble(np.s_[:, :]), 0, 50)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(explain_all(explainer, list(find_images([folder])), tmp_path / "out", begin))
    said = [row["reason"].partition(":")[0] or row["status"] for row in table(tmp_path / "out")]
    assert said == ["explained", "stopped", "stopped", "stopped"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "left").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (images / "1.png").write_bytes(png(picture()))
    (images / "left" / "1.png").write_bytes(png(picture(3)))
    (images / "bad.jpg").write_text("no photograph")
    (images / "gone.jpg").symlink_to("nothing")
    return images


def test_every_input_has_its_row_and_every_explanation_its_files(folder: Path, tmp_path: Path) -> None:
    class Strict(Ensemble):
        async def score(self, data: bytes, request_id: str) -> Prediction:
            decode(data)
            return await super().score(data, request_id)

    rows = run(Strict(np.s_[:, :]), folder, tmp_path / "out")
    said = [(row["image_id"], row["status"], row["reason"].partition(":")[0]) for row in rows]
    assert said == [
        ("1.png", "explained", ""),
        ("bad.jpg", "failed", "not_an_image"),
        ("gone.jpg", "failed", "vanished"),
        ("left/1.png", "explained", ""),
    ]
    assert tuple(rows[0]) == COLUMNS
    for row in (rows[0], rows[3]):
        heat = np.load(tmp_path / "out" / f"{row['image_id']}.heat.npy")
        assert heat.shape == (MAP_CELLS, MAP_CELLS)
        assert float(row["highest"]) == pytest.approx(float(np.nanmax(heat)))
        assert cv2.imread(str(tmp_path / "out" / f"{row['image_id']}.heat.png")) is not None
    assert len(list((tmp_path / "out").rglob("*.*"))) == 5


def test_once_the_servers_are_lost_the_rest_is_not_asked(folder: Path, tmp_path: Path) -> None:
    pool = Ensemble(np.s_[:, :], lost=ServerUnreachableError("No server is ready."))
    rows = run(pool, folder, tmp_path / "out")
    assert {row["reason"].partition(":")[0] for row in rows} == {"server_unreachable"}
    assert (len(rows), pool.n_asked) == (4, 0)


def test_a_label_is_found_by_its_name() -> None:
    labels = ("glaucoma", "cataract")
    assert [label_index(labels, each) for each in (None, "glaucoma", "cataract")] == [0, 0, 1]
    with pytest.raises(UsageError, match=r"no label 'myopia'\. Choose one of: glaucoma, cataract"):
        label_index(labels, "myopia")


def test_a_picture_shows_what_speaks_for_in_vermilion_and_against_in_blue() -> None:
    heat: Heat = np.full((MAP_CELLS, MAP_CELLS), np.nan)
    heat[:, :20], heat[:, 40:] = 0.1, -0.1
    drawn = draw(Subject.of(picture(), DISC), heat)
    coloured = drawn[PANEL_PX // 2, 2 * PANEL_PX : 3 * PANEL_PX]
    assert coloured[20].tolist() == pytest.approx(FOR, abs=2)
    assert coloured[-20].tolist() == pytest.approx(AGAINST, abs=2)
    assert np.ptp(coloured[PANEL_PX // 2].astype(int)) == 0, "grey where there is no heat"


def test_a_map_of_hardly_anything_stays_pale() -> None:
    heat: Heat = np.full((MAP_CELLS, MAP_CELLS), 0.001)
    panel = draw(Subject.of(picture(), DISC), heat)[:, 2 * PANEL_PX : 3 * PANEL_PX].astype(int)
    assert np.ptp(panel, axis=2).max() < 20


@pytest.mark.parametrize(
    ("inputs", "said"),
    [("empty", "There is no image"), ("missing", "no file or folder"), ("images", "empty")],
)
def test_what_cannot_be_explained_is_said_before_a_server_starts(
    folder: Path, tmp_path: Path, inputs: str, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "out" / "earlier.csv").touch()
    line = ["explain", str(tmp_path / inputs), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(main, line)
    assert done.exit_code == 2
    assert said in done.output
