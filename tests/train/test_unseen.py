import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lightning as lit
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from rich.progress import Progress

from fundus_core import phantoms
from fundus_core.errors import LabelsError
from fundus_core.preprocess import PreprocessSpec
from fundus_core.reading import read_scores
from fundus_core.tables import LabelTable
from fundus_eval.auc import auc_delong
from fundus_train import unseen
from fundus_train.cli import main
from fundus_train.recipe import Network, Phantoms, Recipe, Training
from fundus_train.unseen import LeaveOneSourceOut

SOURCES = {"east": 10, "north": 8, "west": 6}
SEEDS = (3, 4)
RECIPE = Recipe(
    "tiny",
    Network("test_efficientnet", pretrained=False),
    views=("identity", "hflip"),
    preprocess=PreprocessSpec(size_px=32),
    phantoms=Phantoms(4, 500),
    training=Training(epochs=1, batch_size=4, patience=1),  # there is nothing to be patient about
)
RECIPE_TEXT = """
name = "tiny"
[preprocess]
size_px = 32
[network]
architecture = "test_efficientnet"
pretrained = false
[training]
epochs = 1
batch_size = 4
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 phantoms with labels.csv."""
    folder = tmp_path_factory.mktemp("unseen") / "images"
    for _ in phantoms.write_samples(folder, sum(SOURCES.values())):
        pass
    return folder


def table(images: Path) -> LabelTable:
    """The labels of all phantoms; the first of them belong to "east", and so on."""
    rows = list(csv.DictReader((images / "labels.csv").open()))
    source = [name for name, count in SOURCES.items() for _ in range(count)]
    values = np.array([[int(row["glaucoma"])] for row in rows], np.int8)
    ids, patients = (tuple(row[column] for row in rows) for column in ("image_id", "patient_id"))
    return LabelTable(ids, RECIPE.labels, values, patients, source=tuple(source))


def experiment(images: Path, run: Path, labels: LabelTable, recipe: Recipe = RECIPE) -> LeaveOneSourceOut:
    fabric = lit.Fabric(accelerator="cpu", devices=1)
    return LeaveOneSourceOut(recipe, labels, images, run, None, fabric, Progress(disable=True))


Drawn = tuple[frozenset[str], int]  # ids, seed of the network


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Drawn]]:
    """What each network was trained on, and with which seed; it is trained for real."""
    seen: list[Drawn] = []
    fit_fold = unseen.fit_fold

    def spy(fabric, network, recipe, cases, part, validation, seed, *rest):
        assert len(validation) == 0
        seen.append((frozenset(cases.image_id[i] for i in part), seed // 1000))
        fit_fold(fabric, network, recipe, cases, part, validation, seed, *rest)

    monkeypatch.setattr(unseen, "fit_fold", spy)
    yield seen


def ids_of(labels: LabelTable, source: str) -> list[str]:
    assert labels.source is not None
    return [i for i, name in zip(labels.image_id, labels.source, strict=True) if name == source]


def test_each_source_is_scored_by_networks_that_never_saw_it(
    images: Path, trained: list[Drawn], tmp_path: Path
) -> None:
    labels, run = table(images), tmp_path / "run"
    found = experiment(images, run, labels).fit(SEEDS, tmp_path / "cache")
    assert [each.source for each in found] == sorted(SOURCES)
    drawn = {f"phantom-{seed}" for seed in RECIPE.phantoms.seeds}
    expected = [
        (frozenset(drawn | set(labels.image_id) - set(ids_of(labels, source))), seed)
        for source in sorted(SOURCES)
        for seed in SEEDS
    ]
    assert trained == expected
    for each in found:
        scores = read_scores(run / f"{each.source}.csv")
        assert list(scores.image_id) == ids_of(labels, each.source)
        assert each.n == len(scores.image_id) == SOURCES[each.source]


def test_the_figures_are_those_of_the_tables(images: Path, tmp_path: Path) -> None:
    labels, run = table(images), tmp_path / "run"
    found = experiment(images, run, labels).fit(SEEDS, tmp_path / "cache")
    truth = dict(zip(labels.image_id, labels.values[:, 0].tolist(), strict=True))
    said = json.loads((run / "unseen.json").read_text())
    assert (said["seeds"], said["recipe"]["name"]) == (list(SEEDS), "tiny")
    assert said["versions"].keys() >= {"fundus-triton", "torch", "timm"}
    for each, in_file in zip(found, said["sources"], strict=True):
        rows = list(csv.DictReader((run / f"{each.source}.csv").open()))
        of = {
            name: np.array([float(row[name]) for row in rows]) for name in ("probability", "fold_0", "fold_1")
        }
        classes = np.array([truth[row["image_id"]] for row in rows])
        assert np.allclose(of["probability"], (of["fold_0"] + of["fold_1"]) / 2, atol=1e-5)
        assert np.ptp(of["fold_0"] - of["fold_1"]) > 0  # the seeds are two networks
        assert each.auc.value == pytest.approx(auc_delong(classes, of["probability"]).value)
        assert each.seed_auc == pytest.approx([auc_delong(classes, of[f"fold_{i}"]).value for i in (0, 1)])
        assert (in_file["source"], in_file["n"]) == (each.source, each.n)
        assert in_file["n_positive"] == each.n_positive == classes.sum()
        assert in_file["auc"]["low"] <= in_file["auc"]["value"] == each.auc.value <= in_file["auc"]["high"]


def test_what_is_there_is_not_trained_again_and_a_further_seed_alone_is(
    images: Path, trained: list[Drawn], tmp_path: Path
) -> None:
    labels, run = table(images), tmp_path / "run"
    first = experiment(images, run, labels).fit((3,), tmp_path / "cache")
    assert [seed for _, seed in trained] == [3] * 3
    assert experiment(images, run, labels).fit((3,), tmp_path / "cache") == first
    assert len(trained) == 3
    (run / "north-seed3.npy").unlink()
    assert experiment(images, run, labels).fit((3,), tmp_path / "cache") == first
    assert len(trained) == 4
    more = experiment(images, run, labels).fit((3, 4), tmp_path / "cache")
    assert [seed for _, seed in trained[4:]] == [4] * 3
    assert [each.seed_auc[:1] for each in more] == [each.seed_auc for each in first]
    time_of_both = json.loads((run / "unseen.json").read_text())["seconds"]
    experiment(images, run, labels).fit((3,), tmp_path / "cache")
    assert json.loads((run / "unseen.json").read_text())["seconds"] < time_of_both
    assert not list(run.glob("*.resume"))


def test_a_patient_of_the_left_out_source_is_not_trained_on_elsewhere(
    images: Path, trained: list[Drawn], tmp_path: Path
) -> None:
    labels = table(images)
    patients = list(labels.patient_id or ())
    patients[-1] = patients[0]  # one of "west" is also of "east"
    labels = replace(labels, patient_id=tuple(patients))
    experiment(images, tmp_path / "run", labels).fit((0,), tmp_path / "cache")
    without_east, without_north, without_west = (ids for ids, _ in trained)
    assert labels.image_id[-1] not in without_east
    assert labels.image_id[0] not in without_west
    assert {labels.image_id[0], labels.image_id[-1]} <= without_north


def test_an_interval_allows_for_several_images_of_one_patient(images: Path, tmp_path: Path) -> None:
    """Each picture twice, saved as another file: twice as many images know no more than before."""
    labels, twice = table(images), tmp_path / "images"
    shutil.copytree(images, twice)
    again = tuple(f"again-{image_id}" for image_id in labels.image_id)
    for image_id, other in zip(labels.image_id, again, strict=True):
        (twice / other).write_bytes((images / image_id).read_bytes() + b" ")
    both = LabelTable(
        labels.image_id + again,
        RECIPE.labels,
        np.concatenate([labels.values, labels.values]),
        2 * (labels.patient_id or ()),
        source=2 * (labels.source or ()),
    )
    found = experiment(twice, tmp_path / "run", both).fit((3,), tmp_path / "cache")
    truth = dict(zip(both.image_id, both.values[:, 0].tolist(), strict=True))
    for each in found:
        scores = read_scores(tmp_path / "run" / f"{each.source}.csv")
        classes = np.array([truth[image_id] for image_id in scores.image_id])
        independent = auc_delong(classes, scores.probability[:, 0])
        assert each.n == 2 * SOURCES[each.source]
        assert 0 < each.auc.value < 1
        assert each.auc.high - each.auc.low > 1.1 * (independent.high - independent.low)


def test_an_image_without_the_first_label_is_scored_and_not_judged(images: Path, tmp_path: Path) -> None:
    labels = table(images)
    values = np.repeat(labels.values, 2, axis=1)
    values[0, 0] = -1
    two = replace(RECIPE, labels=("glaucoma", "amd"), phantoms=Phantoms())
    labels = replace(labels, labels=two.labels, values=values)
    east = experiment(images, tmp_path / "run", labels, two).fit((0,), tmp_path / "cache")[0]
    assert len(read_scores(tmp_path / "run" / "east.csv").image_id) == SOURCES["east"]
    assert (east.n, east.n_positive) == (SOURCES["east"] - 1, int((values[1 : SOURCES["east"], 0]).sum()))


def test_a_deterministic_recipe_is_trained_so(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = []

    def spy(*_: object) -> None:
        was.append(torch.are_deterministic_algorithms_enabled())
        raise InterruptedError

    monkeypatch.setattr(unseen, "fit_fold", spy)
    for wanted in (False, True):
        recipe = replace(RECIPE, training=replace(RECIPE.training, deterministic=wanted))
        with pytest.raises(InterruptedError):
            experiment(images, tmp_path / "run", table(images), recipe).fit((0,), tmp_path / "cache")
    assert was == [False, True]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (None, "Leaving a source out needs two of them"),
        (("east",) * 24, "Leaving a source out needs two of them"),
        (("east",) * 12 + ("",) * 12, "each image's name of its own in the column 'source'"),
        (("x/east",) * 12 + ("x/west",) * 12, "The source 'x/east' cannot name files. Rename it"),
        (("split",) * 12 + ("west",) * 12, "The source 'split' cannot name files"),
        (("Kaggle, 2020",) * 12 + ("west",) * 12, "The source 'Kaggle, 2020' cannot name files"),
    ],
)
def test_sources_that_cannot_be_left_out_are_refused_before_anything_is_trained(
    source: tuple[str, ...] | None, sentence: str, images: Path, trained: list[Drawn], tmp_path: Path
) -> None:
    labels = replace(table(images), source=source)
    with pytest.raises(LabelsError, match=sentence):
        experiment(images, tmp_path / "run", labels).fit((0,), tmp_path / "cache")
    assert not trained


def test_a_source_of_one_class_is_refused_before_anything_is_trained(
    images: Path, trained: list[Drawn], tmp_path: Path
) -> None:
    labels = table(images)
    values = labels.values.copy()
    values[-SOURCES["west"] :] = 1
    with pytest.raises(LabelsError, match="The source 'west' has one class only"):
        experiment(images, tmp_path / "run", replace(labels, values=values)).fit((0,), tmp_path / "cache")
    assert not trained


def command(images: Path, folder: Path, text: str = RECIPE_TEXT, *more: str) -> Result:
    """Run `fundus-train unseen`, in this process."""
    labels, recipe = table(images), folder / "tiny.toml"
    recipe.write_text(text)
    rows = zip(labels.image_id, labels.values[:, 0], labels.source or (), strict=True)
    data = folder / "labels.csv"
    data.write_text("image_id,glaucoma,source\n" + "".join(f"{i},{v},{s}\n" for i, v, s in rows))
    line = ["unseen", recipe, "--data", data, "--images", images, "--output", folder / "run"]
    return CliRunner().invoke(main, [*map(str, line), "--accelerator", "cpu", *more])


def test_the_command_prints_a_line_for_each_source_and_refuses_a_folder_of_another_recipe(
    images: Path, tmp_path: Path
) -> None:
    done = command(images, tmp_path)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(SOURCES)
    for line, each in zip(
        lines, json.loads((tmp_path / "run" / "unseen.json").read_text())["sources"], strict=True
    ):
        assert f"{each['auc']['value']:.3f}" in line
        assert f"{each['n']} images, {each['n_positive']} positive" in line
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*.npy")}
    assert len(before) == 3
    other = command(images, tmp_path, RECIPE_TEXT.replace("epochs = 1", "epochs = 2"))
    assert other.exit_code == 2
    assert "holds a run of another recipe, labels table or weights" in other.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_device_that_is_not_there_is_a_sentence(images: Path, tmp_path: Path) -> None:
    done = command(images, tmp_path, RECIPE_TEXT, "--accelerator", "abacus")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--accelerator abacus --devices 1 is not to be had here" in done.stderr
