import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import bare_spec

from fundus_core.ensemble import EnsembleSpec, read_manifest
from fundus_core.errors import BundleError, UsageError
from fundus_core.reading import read_labels
from fundus_core.tables import LabelTable
from fundus_eval.golden import (
    GOLDEN,
    GRAPHS,
    N_PHANTOMS,
    PYTORCH,
    check_own,
    draw_phantoms,
    phantoms,
    read_golden,
    write_answers,
)
from fundus_eval.parity import Answers

SPEC = bare_spec(2)
INT8 = replace(SPEC, precision="int8")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    draw_phantoms(folder)
    return folder


@pytest.fixture
def repository(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "repository"))


def answers(n: int, spec: EnsembleSpec = SPEC) -> Answers:
    folds = np.random.default_rng(0).random((n, len(spec.folds), len(spec.labels)), np.float32)
    return Answers(folds.mean(axis=1), folds)


def test_answers_read_back_are_those_that_were_written(repository: Path) -> None:
    written = answers(N_PHANTOMS)
    write_answers(repository, SPEC, phantoms(repository), PYTORCH, written)
    golden = read_golden(repository, SPEC, None, None)
    assert golden.answers.keys() == {PYTORCH}
    assert np.array_equal(golden.answers[PYTORCH].folds.astype(np.float32), written.folds)
    assert golden.paths == phantoms(repository)
    assert all(path.is_file() for path in golden.paths)
    assert len(golden.paths) == N_PHANTOMS


def test_int8_has_the_answers_of_its_graphs_too(repository: Path) -> None:
    written = answers(N_PHANTOMS)
    graphs = Answers(1 - written.probability, 1 - written.folds)
    write_answers(repository, INT8, phantoms(repository), PYTORCH, written)
    with pytest.raises(BundleError, match=r"has no fundus_ensemble/golden/graph_answers.csv .* Export the"):
        read_golden(repository, INT8, None, None)
    write_answers(repository, INT8, phantoms(repository), GRAPHS, graphs)
    found = read_golden(repository, INT8, None, None).answers
    assert np.array_equal(found[PYTORCH].folds.astype(np.float32), written.folds)
    assert np.array_equal(found[GRAPHS].folds.astype(np.float32), graphs.folds)


def test_phantoms_say_nothing_of_an_auc(repository: Path) -> None:
    write_answers(repository, SPEC, phantoms(repository), PYTORCH, answers(N_PHANTOMS))
    assert read_golden(repository, SPEC, None, None).truth.values.tolist() == [[-1]] * N_PHANTOMS


def test_the_answers_of_the_committed_ensemble_are_read_as_ever() -> None:
    repository = Path(__file__).parents[2] / "triton_models"
    spec = read_manifest(repository)
    golden = read_golden(repository, spec, None, None)
    assert golden.answers.keys() == {PYTORCH}
    assert golden.answers[PYTORCH].folds.shape == (N_PHANTOMS, 4, 1)


def test_labels_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--labels says what is true of --images\. Give both"):
        check_own(None, tmp_path)
    check_own(tmp_path, None)
    check_own(tmp_path, tmp_path)


@pytest.fixture
def own(tmp_path: Path, phantom_folder: Path) -> Path:
    """Three images of a clinic, one of them a copy; their names tell who was photographed."""
    folder = tmp_path / "clinic"
    folder.mkdir()
    files = sorted(path for path in phantom_folder.iterdir() if path.suffix != ".csv")[:2]
    for name, file in zip(("Erika Mustermann.jpg", "b.jpg", "copy.jpg"), (*files, files[1]), strict=True):
        shutil.copy(file, folder / name)
    return folder


def test_images_of_ones_own_are_known_by_their_content_and_never_named(repository: Path, own: Path) -> None:
    files = sorted(own.iterdir())
    written = answers(N_PHANTOMS + len(files))
    write_answers(repository, SPEC, [*phantoms(repository), *files], PYTORCH, written)
    text = (repository / GOLDEN / "answers.csv").read_text()
    assert "Mustermann" not in text
    assert hashlib.sha256(files[0].read_bytes()).hexdigest() in text
    (own / "Erika Mustermann.jpg").rename(own / "renamed.jpg")
    (own / "another.jpg").write_bytes(b"was not there at export")
    labels = LabelTable(("renamed.jpg",), ("glaucoma",), np.array([[1]], np.int8))
    golden = read_golden(repository, SPEC, own, labels)
    assert [path.name for path in golden.paths[-3:]] == ["b.jpg", "copy.jpg", "renamed.jpg"]
    assert golden.truth.values[:, 0].tolist() == [*[-1] * N_PHANTOMS, -1, -1, 1]
    assert len(golden.paths) == N_PHANTOMS + 3
    of_name = dict(zip([path.name for path in files], written.folds[N_PHANTOMS:].tolist(), strict=True))
    expected = [of_name["b.jpg"], of_name["b.jpg"], of_name["Erika Mustermann.jpg"]]
    assert golden.answers[PYTORCH].folds[-3:] == pytest.approx(np.array(expected))


def test_images_without_an_answer_are_a_sentence(repository: Path, own: Path) -> None:
    write_answers(repository, SPEC, phantoms(repository), PYTORCH, answers(N_PHANTOMS))
    with pytest.raises(UsageError, match=r"No image below .* has a golden answer"):
        read_golden(repository, SPEC, own, None)


def test_a_repository_without_answers_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"has no fundus_ensemble/golden/answers.csv to compare with\. Export"
    ):
        read_golden(tmp_path, SPEC, None, None)


def test_golden_phantoms_are_drawn_alike_everywhere(drawn: Path) -> None:
    labels = read_labels(drawn / GOLDEN / "labels.csv")
    assert len(labels.image_id) == N_PHANTOMS
    assert 4 <= labels.values.sum() <= N_PHANTOMS - 4
