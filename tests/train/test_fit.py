import csv
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from safetensors import safe_open
from tests.conftest import TINY_RECIPE

from fundus_eval.cli import main as fundus_eval
from fundus_train.cli import main as fundus_train
from fundus_train.results import read_rows, write_table

MADE = {
    "identity.json",
    "cache",
    "fold_0.safetensors",
    "fold_1.safetensors",
    "epochs.csv",
    "split.csv",
    "oof.csv",
    "inner_test.csv",
    "dropped.csv",
    "run.json",
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(run: Path) -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def timeless(run: Path) -> dict[str, bytes]:
    """What is in a run folder but for how long it took."""
    found = contents(run)
    said = json.loads(found.pop("run.json"))
    assert said.pop("seconds") > 0
    assert said.pop("images_per_s") > 0
    return found | {"run.json": json.dumps(said).encode(), "epochs.csv": b""}


def fit(*arguments: object) -> Result:
    """Run `fundus-train fit`, in this process: PyTorch is imported already."""
    return CliRunner().invoke(fundus_train, ["fit", *map(str, arguments)])


@pytest.fixture
def again(tmp_path: Path, tiny_run: Path, phantom_folder: Path) -> tuple[Path, list[object]]:
    """A copy of the finished run, and the arguments behind `fit RECIPE` that made it."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    labels = phantom_folder / "labels.csv"
    return run, ["--data", labels, "--images", phantom_folder, "--output", run]


def recipe_file(folder: Path, text: str = TINY_RECIPE) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_run_leaves_these_files_and_no_unfinished_one(tiny_run: Path) -> None:
    assert {path.name for path in tiny_run.iterdir()} == MADE


def test_every_image_is_in_one_part_and_scored_where_it_was_not_trained_on(
    tiny_run: Path, phantom_folder: Path
) -> None:
    part = {row["image_id"]: row["part"] for row in rows(tiny_run / "split.csv")}
    labels = {row["image_id"]: row["glaucoma"] for row in rows(phantom_folder / "labels.csv")}
    assert part.keys() == labels.keys()
    assert {row["image_id"]: row["glaucoma"] for row in rows(tiny_run / "split.csv")} == labels
    assert set(part.values()) == {"test", "fold_0", "fold_1"}
    out_of_fold = [row["image_id"] for row in rows(tiny_run / "oof.csv")]
    inner_test = [row["image_id"] for row in rows(tiny_run / "inner_test.csv")]
    assert sorted(out_of_fold) == sorted(image_id for image_id in part if part[image_id] != "test")
    assert sorted(inner_test) == sorted(image_id for image_id in part if part[image_id] == "test")


def test_a_test_score_is_the_mean_of_its_folds(tiny_run: Path) -> None:
    for row in rows(tiny_run / "inner_test.csv"):
        mean = (float(row["fold_0"]) + float(row["fold_1"])) / 2
        assert float(row["probability"]) == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize(
    ("scores", "name"), [("oof.csv", "cross_validation"), ("inner_test.csv", "inner_test")]
)
def test_the_tables_give_the_aucs_of_run_json(scores: str, name: str, tiny_run: Path) -> None:
    arguments = ["auc", tiny_run / scores, tiny_run / "split.csv", "--json"]
    answer = json.loads(CliRunner().invoke(fundus_eval, list(map(str, arguments))).stdout)
    assert answer == json.loads((tiny_run / "run.json").read_text())[name]
    assert 0 <= answer["auc_low"] <= answer["auc"] <= answer["auc_high"] <= 1


def test_a_table_keeps_whatever_a_file_system_allows_in_a_name(tmp_path: Path) -> None:
    rows = [["a\rb.jpg", "1"], ['c,"d"\n.jpg', "0"], ["\udcff.jpg", "1"]]
    write_table(tmp_path / "split.csv", ["image_id", "part"], rows)
    assert read_rows(tmp_path / "split.csv") == rows


def test_run_json_says_how_the_run_was_made(tiny_run: Path) -> None:
    said = json.loads((tiny_run / "run.json").read_text())
    assert said["recipe"]["network"]["architecture"] == "test_efficientnet"
    assert (said["n_images"], said["n_dropped"]) == (48, 0)
    assert said["n_inner_test"] == len(rows(tiny_run / "inner_test.csv"))
    assert {"fundus-triton", "torch", "timm", "python"} <= said["versions"].keys()


def test_a_checkpoint_says_what_it_belongs_to(tiny_run: Path) -> None:
    with safe_open(tiny_run / "fold_1.safetensors", "pt") as file:
        spec = json.loads(file.metadata()["fundus_spec"])
    assert spec["fold"] == 1
    assert spec["recipe"] == json.loads((tiny_run / "run.json").read_text())["recipe"]
    assert len(spec["normalise"]["mean"]) == len(spec["normalise"]["std"]) == 3


def test_no_output_names_a_patient(tiny_run: Path, phantom_folder: Path) -> None:
    patients = [row["patient_id"].encode() for row in rows(phantom_folder / "labels.csv")]
    assert len(patients) == 48
    for name, content in contents(tiny_run).items():
        assert not [patient for patient in patients if patient in content], name


def test_the_same_command_again_trains_nothing_and_changes_nothing(
    again: tuple[Path, list[object]], tmp_path: Path
) -> None:
    run, arguments = again
    before = contents(run)
    trained = {fold: (run / f"fold_{fold}.safetensors").stat().st_mtime_ns for fold in range(2)}
    decoded = (run / "cache" / "pixels.npy").stat().st_mtime_ns
    done = fit(recipe_file(tmp_path), *arguments)
    assert done.exit_code == 0, done.output
    assert contents(run) == before
    assert {f: (run / f"fold_{f}.safetensors").stat().st_mtime_ns for f in range(2)} == trained
    assert (run / "cache" / "pixels.npy").stat().st_mtime_ns == decoded
    said = json.loads((run / "run.json").read_text())
    for name, label in (("cross_validation", "AUC(CV)"), ("inner_test", "AUC(inner_test)")):
        (line,) = [line for line in done.stdout.splitlines() if label in line]
        assert f"{said[name]['auc']:.3f}" in line


def test_a_fold_that_was_lost_is_trained_again_to_the_same_weights(
    again: tuple[Path, list[object]], tmp_path: Path
) -> None:
    run, arguments = again
    before, epochs = timeless(run), rows(run / "epochs.csv")
    (run / "fold_1.safetensors").unlink()
    done = fit(recipe_file(tmp_path), *arguments)
    assert done.exit_code == 0, done.output
    assert timeless(run) == before
    untimed = [[{**row, "seconds": ""} for row in each] for each in (epochs, rows(run / "epochs.csv"))]
    assert untimed[0] == untimed[1]  # no row twice


@pytest.mark.parametrize("change", ["recipe", "labels", "weights"])
def test_a_folder_of_another_experiment_is_refused_and_left_alone(
    change: str, again: tuple[Path, list[object]], tmp_path: Path
) -> None:
    run, arguments = again
    before = contents(run)
    recipe = recipe_file(tmp_path)
    if change == "recipe":
        recipe = recipe_file(tmp_path, TINY_RECIPE.replace("epochs = 2", "epochs = 3"))
    elif change == "weights":
        (tmp_path / "other.safetensors").touch()
        arguments += ["--weights", tmp_path / "other.safetensors"]
    else:
        lines = Path(str(arguments[1])).read_text().splitlines()
        arguments[1] = tmp_path / "labels.csv"
        arguments[1].write_text("\n".join(lines[:-1]))
    done = fit(recipe, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    said = "holds a run of another recipe, labels table or weights. Choose another --output."
    assert said in done.stderr
    assert contents(run) == before


def test_a_fold_in_its_own_process_is_of_the_recipe_that_the_run_began_with(
    again: tuple[Path, list[object]], tmp_path: Path
) -> None:
    run, arguments = again
    (run / "fold_1.safetensors").unlink()
    before = contents(run)
    edited = recipe_file(tmp_path, TINY_RECIPE.replace("epochs = 2", "epochs = 3"))
    done = fit(edited, *arguments, "--only", 0, 1)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Restore what was changed since it began." in done.stderr
    assert contents(run) == before


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (TINY_RECIPE.replace("epochs", "epoch"), "unknown key 'epoch'. Did you mean 'epochs'?"),
        (TINY_RECIPE.replace("test_efficientnet", "test_efficient"), "Did you mean 'test_efficientnet'?"),
        (
            TINY_RECIPE.replace("batch_size = 8", "batch_size = 500"),
            "Lower batch_size.",
        ),
        (
            TINY_RECIPE.replace("folds = 2", "folds = 40"),
            "cannot make 40 folds. Choose fewer, or add patients.",
        ),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_2(
    recipe: str, sentence: str, again: tuple[Path, list[object]], tmp_path: Path
) -> None:
    run, arguments = again
    arguments[-1] = tmp_path / "new"
    shutil.copytree(run / "cache", tmp_path / "new" / "cache")
    done = fit(recipe_file(tmp_path, recipe), *arguments)
    assert done.exit_code == 2
    assert sentence in done.stderr


def test_every_epoch_has_a_row_and_the_rows_give_the_speed(tiny_run: Path) -> None:
    epochs = rows(tiny_run / "epochs.csv")
    assert [(row["fold"], row["epoch"]) for row in epochs] == [("0", "1"), ("0", "2"), ("1", "1"), ("1", "2")]
    assert {row["validation_auc"] for row in epochs} == {""}  # nothing stops early here
    assert all(float(row["loss"]) > 0 and float(row["learning_rate"]) > 0 for row in epochs)
    said = json.loads((tiny_run / "run.json").read_text())
    seconds = sum(float(row["seconds"]) for row in epochs)
    assert said["seconds"] == pytest.approx(seconds, abs=0.01)
    n_images = sum(int(row["n_images"]) for row in epochs)
    assert said["images_per_s"] == pytest.approx(n_images / seconds, rel=0.01)


TWO_LABELS = """
name = "two labels"
labels = ["glaucoma", "amd"]
[preprocess]
size_px = 32
[network]
architecture = "test_efficientnet"
pretrained = false
[split]
test_size = 0.3
folds = 2
[training]
epochs = 3
patience = 1
batch_size = 8
learning_rate = 1e-9
"""


@pytest.fixture(scope="module")
def two_labels(tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path) -> tuple[Path, Result]:
    """A run with labels that are not all known, from two sources, that may stop early."""
    place = tmp_path_factory.mktemp("two")
    lines = ["image_id,glaucoma,amd,source"]
    for i, row in enumerate(rows(phantom_folder / "labels.csv")):
        amd = ["0", "1", "", "0", "1"][i % 5]
        lines.append(f"{row['image_id']},{row['glaucoma']},{amd},{'hospital' if i % 3 else 'clinic'}")
    (place / "labels.csv").write_text("\n".join(lines))
    inputs = ["--data", place / "labels.csv", "--images", phantom_folder, "--output", place / "run"]
    return place / "run", fit(recipe_file(place, TWO_LABELS), *inputs, "--accelerator", "cpu")


def test_labels_that_are_not_known_are_empty_cells(two_labels: tuple[Path, Result]) -> None:
    run, done = two_labels
    assert done.exit_code == 0, done.output
    given = {row["image_id"]: row for row in rows(run.parent / "labels.csv")}
    for row in rows(run / "split.csv"):
        assert {name: row[name] for name in ("glaucoma", "amd", "source")} == {
            name: given[row["image_id"]][name] for name in ("glaucoma", "amd", "source")
        }
    said = json.loads((run / "run.json").read_text())
    n_known = sum(row["amd"] != "" and row["part"] == "test" for row in rows(run / "split.csv"))
    assert said["inner_test"]["labels"][1]["n"] == n_known


def test_each_source_has_its_counts_and_its_inner_test(two_labels: tuple[Path, Result]) -> None:
    run, done = two_labels
    split = rows(run / "split.csv")
    said = json.loads((run / "run.json").read_text())
    counted = {
        source: {
            "n_images": sum(row["source"] == source for row in split),
            "n_inner_test": sum((row["source"], row["part"]) == (source, "test") for row in split),
        }
        for source in ("clinic", "hospital")
    }
    assert said["n_by_source"] == counted
    assert said["inner_test_by_source"].keys() == counted.keys()
    for source, evaluation in said["inner_test_by_source"].items():
        assert evaluation["n_files"] == counted[source]["n_inner_test"]
        first = evaluation["labels"][0]
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"glaucoma  AUC({source})")]
        assert f"{first['n']} images, {first['n_positive']} positive" in line


def test_early_stopping_leaves_its_validation_aucs(two_labels: tuple[Path, Result]) -> None:
    """Of three epochs, a fold ends before the third if the second is no better than the first."""
    epochs = rows(two_labels[0] / "epochs.csv")
    for fold in "01":
        aucs = [float(row["validation_auc"]) for row in epochs if row["fold"] == fold]
        assert len(aucs) == (3 if aucs[1] > aucs[0] else 2)
        assert all(0 <= auc <= 1 for auc in aucs)


def test_a_run_without_sources_says_nothing_of_them(tiny_run: Path) -> None:
    said = json.loads((tiny_run / "run.json").read_text())
    assert (said["n_by_source"], said["inner_test_by_source"]) == ({}, {})
    assert "source" not in rows(tiny_run / "split.csv")[0]
