import csv
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lightning as lit
import numpy as np
import pytest
from click.testing import Result
from tests.train.test_fit import contents, fit, recipe_file, rows

from fundus_core.console import progress_bar
from fundus_core.reading import read_labels
from fundus_eval.evaluation import Evaluation, LabelEvaluation
from fundus_eval.intervals import Interval
from fundus_train import pseudo
from fundus_train.cases import Cases
from fundus_train.fit import Experiment
from fundus_train.folds import POOL, TEST
from fundus_train.recipe import Network, PseudoLabels, Recipe
from fundus_train.results import Fitted, read_run_json

PART = np.array([0, 0, 1, 1, TEST, TEST, POOL, POOL, POOL])
PATIENT = np.array([1, 1, 2, 3, 4, 4, 1, 2, 9])

# every score becomes a label: two epochs make nobody sure of anything
ROUNDS_RECIPE = """
name = "rounds"
[preprocess]
size_px = 32
[network]
architecture = "test_efficientnet"
pretrained = false
[split]
test_size = 0.3
folds = 2
[phantoms]
count = 2
[training]
epochs = 1
batch_size = 8
[pseudo_labels]
rounds = 1
positive = 0.5
negative = 0.4999
"""
UNLABELLED = (5, 11, 17)  # lines of the labels table


def cases_of(targets: list[list[int]]) -> Cases:
    """The nine real cases of PART and PATIENT, and a phantom."""
    n = len(PART)
    return Cases(
        image_id=(*(f"{i}.png" for i in range(n)), "phantom-0"),
        pixels=np.zeros((n + 1, 2, 2, 3), np.uint8),
        row=np.arange(n + 1),
        targets=np.array([*targets, [1] * len(targets[0])], np.int8),
        patient=np.array([*PATIENT, 99]),
        source=("",) * (n + 1),
        n_real=n,
        dropped=(),
        sha256=tuple(map(str, range(n))),
    )


CASES = cases_of([[0], [1], [0], [1], [0], [1], [-1], [-1], [-1]])
RECIPE = Recipe("x", Network("none"), pseudo_labels=PseudoLabels(rounds=5, positive=0.9, negative=0.1))


def test_only_sure_scores_become_labels() -> None:
    scores = np.array([[0.98, 0.02], [0.979, 0.021], [1.0, 0.0], [np.nan, 0.5]])
    assert pseudo.hard_labels(scores, PseudoLabels()).tolist() == [[1, 0], [-1, -1], [1, 0], [-1, -1]]


def test_training_sees_no_label_of_the_inner_test() -> None:
    flipped = replace(
        CASES, targets=np.where(np.append(PART, 0)[:, None] == TEST, 1 - CASES.targets, CASES.targets)
    )
    assert not np.array_equal(flipped.targets, CASES.targets)
    seen = pseudo.blind(CASES, PART)
    assert np.array_equal(pseudo.blind(flipped, PART).targets, seen.targets)
    assert seen.targets[:, 0].tolist() == [0, 1, 0, 1, -1, -1, -1, -1, -1, 1]
    assert CASES.targets[4:6, 0].tolist() == [0, 1]


def test_without_pseudo_labels_a_fold_is_trained_on_the_other_folds_and_the_phantoms() -> None:
    seen = pseudo.blind(CASES, PART)
    assert pseudo.training_part(seen, PART, 0).tolist() == [2, 3, 9]
    assert pseudo.training_part(seen, PART, 1).tolist() == [0, 1, 9]


def test_no_image_of_a_patient_trains_the_model_that_validates_on_that_patient() -> None:
    hard = np.array([-1, -1, -1, -1, 1, -1, 0, 1, 1], np.int8)[:, None]
    seen = pseudo.with_pseudo_labels(pseudo.blind(CASES, PART), hard)
    assert pseudo.training_part(seen, PART, 0).tolist() == [2, 3, 4, 7, 8, 9]  # 6 is of a patient in fold 0
    assert pseudo.training_part(seen, PART, 1).tolist() == [0, 1, 4, 6, 8, 9]  # 7 is of one in fold 1
    assert seen.targets[:, 0].tolist() == [0, 1, 0, 1, 1, -1, 0, 1, 1, 1]


def test_each_of_several_labels_is_sure_by_itself(tmp_path: Path) -> None:
    recipe = replace(RECIPE, labels=("glaucoma", "amd"))
    cases = cases_of([[0, 1], [1, 0], [0, 1], [1, 0], [0, 1], [1, -1], [-1, -1], [-1, -1], [-1, -1]])
    table = "image_id,probability:glaucoma,probability:amd\n"
    (tmp_path / "inner_test.csv").write_text(f"{table}4.png,0.95,0.5\n5.png,0.5,0.5\n")
    (tmp_path / "unlabelled.csv").write_text(f"{table}8.png,0.01,0.99\n7.png,0.5,0.05\n")
    hard = pseudo.pseudo_labels(tmp_path, recipe, cases)
    assert {i: hard[i].tolist() for i in range(4, 9)} == {
        4: [1, -1],
        5: [-1, -1],
        6: [-1, -1],
        7: [-1, 0],
        8: [0, 1],
    }
    pseudo.write_pseudo_labels(tmp_path, recipe, cases, hard)
    assert np.array_equal(pseudo.read_pseudo_labels(tmp_path, recipe, cases), hard)
    assert read_labels(tmp_path / "pseudo_labels.csv", recipe.labels).image_id == ("4.png", "7.png", "8.png")


def fitted(number: int, auc: float) -> Fitted:
    interval = Interval(auc, auc - 0.1, auc + 0.1)
    label = LabelEvaluation("glaucoma", "image", 9, 4, None, interval, None, (), None, None)
    evaluation = Evaluation((label,), 9, 9, 0, 0, 0)
    counts = (number, 10 * number, 20 * number, 9, 2, 3, {}, ())
    return Fitted(Path("x"), *counts, evaluation, evaluation, {})


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """An experiment whose rounds have the AUCs and make the pseudo-labels that a test says."""

    def run(aucs: list[float], labels: list[list[int]]) -> tuple[Fitted, ...]:
        made = iter(labels)
        monkeypatch.setattr(Experiment, "_prepare", lambda self: (CASES, PART))
        monkeypatch.setattr(Experiment, "_fit_round", lambda self, now: fitted(now.number, aucs[now.number]))
        monkeypatch.setattr(pseudo, "pseudo_labels", lambda *_: np.array(next(made), np.int8)[:, None])
        fabric = lit.Fabric(accelerator="cpu", devices=1)
        labels_table = SimpleNamespace(image_id=(), values=np.zeros((0, 1)), patient_id=None, source=None)
        experiment = Experiment(RECIPE, labels_table, tmp_path, tmp_path, None, fabric, progress_bar())  # type: ignore[arg-type]
        return experiment.fit()

    return run


def labelled(*pairs: tuple[int, int]) -> list[int]:
    return [dict(pairs).get(i, -1) for i in range(len(PART))]


ONE, TWO, THREE = labelled((4, 1)), labelled((4, 1), (5, 0)), labelled((4, 1), (5, 0), (8, 0))


@pytest.mark.parametrize(
    ("aucs", "labels", "n_rounds", "best"),
    [
        ([0.8, 0.85, 0.84, 0.99], [ONE, TWO, THREE], 3, 1),
        ([0.8, 0.79], [ONE], 2, 0),
        ([0.8, 0.9, 0.9, 0.9, 0.9, 0.9], [ONE, TWO, ONE, TWO, ONE], 6, 1),
        ([0.8, 0.9], [ONE, ONE], 2, 1),
        ([0.8], [labelled()], 1, 0),
    ],
    ids=["fell", "fell at once", "as many as wanted", "the same labels again", "no label"],
)
def test_when_the_rounds_end(
    aucs: list[float], labels: list[list[int]], n_rounds: int, best: int, script, tmp_path: Path
) -> None:
    rounds = script(aucs, labels)
    assert [each.round for each in rounds] == list(range(n_rounds))
    assert pseudo.best_round(rounds).round == best
    table = rows(tmp_path / "rounds.csv")
    assert [row["round"] for row in table if row["best"] == "1"] == [str(best)]
    assert [float(row["cv_auc"]) for row in table] == aucs[:n_rounds]
    assert [row["n_negative"] for row in table] == [str(20 * number) for number in range(n_rounds)]
    assert float(table[0]["inner_test_auc_low"]) == pytest.approx(aucs[0] - 0.1)


@pytest.fixture(scope="module")
def partly_labelled(tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path) -> Path:
    """The phantoms' labels table, without the labels of a few whose patients have other images."""
    path = tmp_path_factory.mktemp("table") / "labels.csv"
    table = rows(phantom_folder / "labels.csv")
    for line in UNLABELLED:
        table[line] |= {"glaucoma": "", "patient_id": table[line + 1]["patient_id"]}
    write(path, table)
    return path


def write(path: Path, table: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path, partly_labelled: Path) -> Path:
    run = tmp_path_factory.mktemp("rounds") / "run"
    done = fit_rounds(run, partly_labelled, phantom_folder)
    assert done.exit_code == 0, done.output
    assert len([line for line in done.stdout.splitlines() if line.startswith("round ")]) == 2
    best = next(row["round"] for row in rows(run / "rounds.csv") if row["best"] == "1")
    export = f"fundus-export repository {run / 'round_1' if best == '1' else run} MODEL_REPOSITORY"
    assert export in done.stderr.replace("\n", "")
    return run


def fit_rounds(run: Path, labels: Path, images: Path) -> Result:
    recipe = recipe_file(run.parent, ROUNDS_RECIPE)
    return fit(recipe, "--data", labels, "--images", images, "--output", run, "--accelerator", "cpu")


def test_each_round_is_a_run_folder_and_shares_the_cache(two_rounds: Path) -> None:
    later = two_rounds / "round_1"
    assert read_run_json(two_rounds)["pseudo_labels"] == {"round": 0, "n_positive": 0, "n_negative": 0}
    said = read_run_json(later)
    given = rows(later / "pseudo_labels.csv")
    counts = [sum(row["glaucoma"] == value for row in given) for value in "10"]
    assert said["pseudo_labels"] == {"round": 1, "n_positive": counts[0], "n_negative": counts[1]}
    assert (said["n_images"], said["n_unlabelled"]) == (48 - len(UNLABELLED), len(UNLABELLED))
    assert (later / "cache" / "pixels.npy").samefile(two_rounds / "cache" / "pixels.npy")
    assert (later / "split.csv").read_bytes() == (two_rounds / "split.csv").read_bytes()
    names = {
        "identity.json",
        "fold_0.safetensors",
        "fold_1.safetensors",
        "epochs.csv",
        "oof.csv",
        "dropped.csv",
    }
    assert names <= {path.name for path in later.iterdir()}
    weights = [(run / "fold_0.safetensors").read_bytes() for run in (two_rounds, later)]
    assert weights[0] != weights[1]
    assert [row["round"] for row in rows(two_rounds / "rounds.csv")] == ["0", "1"]


def test_pseudo_labels_are_what_the_scores_of_the_pool_say(two_rounds: Path) -> None:
    scores = {
        row["image_id"]: float(row["probability"])
        for name in ("inner_test.csv", "unlabelled.csv")
        for row in rows(two_rounds / name)
    }
    split = {row["image_id"]: row["part"] for row in rows(two_rounds / "split.csv")}
    assert {split[image_id] for image_id in scores} == {"test", "unlabelled"}
    assert len(scores) == sum(part in ("test", "unlabelled") for part in split.values())
    made = {
        row["image_id"]: int(row["glaucoma"]) for row in rows(two_rounds / "round_1" / "pseudo_labels.csv")
    }
    sure = {image_id: int(score >= 0.5) for image_id, score in scores.items() if not 0.4999 < score < 0.5}
    assert made == sure
    assert [row["glaucoma"] for row in rows(two_rounds / "split.csv") if row["part"] == "unlabelled"] == [
        ""
    ] * 3


def test_other_labels_of_the_inner_test_change_no_weight_and_no_pseudo_label(
    two_rounds: Path,
    partly_labelled: Path,
    phantom_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part = {row["image_id"]: row["part"] for row in rows(two_rounds / "split.csv")}
    table = rows(partly_labelled)
    flipped = [
        row | {"glaucoma": "10"[int(row["glaucoma"])]} if part[row["image_id"]] == "test" else row
        for row in table
    ]
    assert flipped != table
    write(tmp_path / "labels.csv", flipped)
    number = {"test": TEST, "unlabelled": POOL, "fold_0": 0, "fold_1": 1}
    same = np.array([number[each] for each in part.values()])  # the split itself is stratified by all labels
    monkeypatch.setattr("fundus_train.fit.split_cases", lambda *_: same)
    done = fit_rounds(tmp_path / "run", tmp_path / "labels.csv", phantom_folder)
    assert done.exit_code == 0, done.output
    runs = (two_rounds, tmp_path / "run")
    assert rows(runs[0] / "split.csv") != rows(runs[1] / "split.csv")
    for name in (
        "round_1/pseudo_labels.csv",
        *(f"{where}fold_{fold}.safetensors" for where in ("", "round_1/") for fold in (0, 1)),
    ):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes(), name


@pytest.mark.parametrize(
    "lost", [("fold_1.safetensors",), ("run.json", "pseudo_labels.csv", "fold_0.safetensors")]
)
def test_a_round_that_was_cut_off_is_resumed_to_the_same_weights(
    lost: tuple[str, ...], two_rounds: Path, partly_labelled: Path, phantom_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(two_rounds, run, symlinks=True)
    for name in lost:
        (run / "round_1" / name).unlink()
    (run / "rounds.csv").unlink()
    done = fit_rounds(run, partly_labelled, phantom_folder)
    assert done.exit_code == 0, done.output
    before, after = contents(two_rounds), contents(run)
    timed = {"round_1/run.json", "round_1/epochs.csv"}
    assert {name: before[name] for name in before.keys() - timed} == {
        name: after[name] for name in after.keys() - timed
    }
