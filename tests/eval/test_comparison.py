import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fundus_eval.auc import auc_delong, auc_difference
from fundus_eval.cli import main

RNG = np.random.default_rng(0)
TRUTH = np.arange(60) % 2
FIRST = TRUTH + RNG.normal(0, 1, 60)
SECOND = TRUTH + RNG.normal(0, 2, 60)


def table(path: Path, column: str, values: dict[str, float]) -> Path:
    path.write_text(f"image_id,{column}\n" + "".join(f"{name},{value}\n" for name, value in values.items()))
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return table(
        tmp_path / "labels.csv", "glaucoma", {f"{i}.jpg": int(value) for i, value in enumerate(TRUTH)}
    )


def scores(path: Path, values: np.ndarray, rows: range) -> Path:
    return table(path, "probability", {f"{i}.jpg": values[i] for i in rows})


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def test_images_are_matched_by_their_id_and_the_rest_is_counted(tmp_path: Path, labels: Path) -> None:
    first = scores(tmp_path / "first.csv", FIRST, range(50))
    second = scores(tmp_path / "second.csv", SECOND, range(59, 9, -1))
    (found,) = json.loads(run(first, second, labels, "--json").stdout)
    common = slice(10, 50)
    expected = auc_difference(TRUTH[common], FIRST[common], SECOND[common])
    assert (found["n"], found["n_positive"], found["n_left_out"]) == (40, 20, 20)
    assert found["difference"]["value"] == pytest.approx(expected.value)
    assert found["difference"]["low"] == pytest.approx(expected.low)
    assert found["first"]["value"] == pytest.approx(auc_delong(TRUTH[common], FIRST[common]).value)


def test_the_line_says_the_same(tmp_path: Path, labels: Path) -> None:
    first = scores(tmp_path / "first.csv", FIRST, range(60))
    second = scores(tmp_path / "second.csv", SECOND, range(60))
    change = auc_difference(TRUTH, FIRST, SECOND)
    said = run(first, second, labels).stdout
    assert said.startswith("glaucoma  ")
    assert f"difference {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]" in said
    assert "60 images, 30 positive, 0 left out" in said


def test_tables_without_a_common_image_are_a_sentence(tmp_path: Path, labels: Path) -> None:
    first = scores(tmp_path / "first.csv", FIRST, range(20))
    done = run(first, scores(tmp_path / "second.csv", SECOND, range(20, 60)), labels)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no labelled image in common" in done.stderr


def test_one_class_alone_is_a_sentence(tmp_path: Path, labels: Path) -> None:
    first = scores(tmp_path / "first.csv", FIRST, range(1))
    done = run(first, scores(tmp_path / "second.csv", SECOND, range(60)), labels)
    assert done.exit_code == 2
    assert "Add positive images: the AUC needs both." in done.stderr
