import csv
import io
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from fundus_core.errors import BundleError, UsageError
from fundus_core.preprocess import REVISION
from fundus_train import experiments, fit, results, unseen
from fundus_train.cli import main as fundus_train
from fundus_train.commands.table import _show
from fundus_train.experiments import csv_text, find_runs, markdown_text, table_rows, write_rows
from fundus_train.recipe import Augment, Network, Phantoms, PseudoLabels, Recipe, Split, Training

REPORT = [
    "exp_num",
    "base model",
    "scheduler",
    "augmentation",
    "test_size",
    "label smoothing",
    "loss",
    "lr",
    "batch",
    "epochs",
    "TTA",
    "pseudo-label",
    "AUC(CV)",
    "AUC(CV) low",
    "AUC(CV) high",
    "AUC(inner_test)",
    "AUC(inner_test) low",
    "AUC(inner_test) high",
    "time (s)",
    "images/s",
    "n",
    "seeds",
    "preprocessing",
    "run",
]
AUC = {"auc": 0.98927246, "auc_low": 0.97, "auc_high": 1.0}
SUMMARY = {
    "n_images": 700,
    "seconds": 1234.56,
    "images_per_s": 45.67,
    "cross_validation": AUC,
    "inner_test": {"auc": 0.95202434, "auc_low": 0.9, "auc_high": 0.99},
}
RECIPE = Recipe("000", Network("efficientnet_b0"))


def run_folder(folder: Path, recipe: Recipe = RECIPE, summary: dict[str, Any] | None = None) -> Path:
    """A run folder as `fit` leaves it; without a summary it has not finished."""
    folder.mkdir(parents=True)
    (folder / "identity.json").write_text(json.dumps({"recipe": asdict(recipe), "labels_sha256": "5a"}))
    if summary:
        (folder / "run.json").write_text(json.dumps({"recipe": asdict(recipe)} | summary))
    return folder


def rows_of(*folders: Path) -> list[dict[str, str]]:
    return table_rows(find_runs(folders))


def table(*arguments: object) -> Result:
    return CliRunner().invoke(fundus_train, ["table", *map(str, arguments)])


def test_the_files_of_a_run_are_called_as_training_calls_them() -> None:
    assert fit.IDENTITY == experiments.IDENTITY
    assert results.RUN_JSON == experiments.RUN_JSON
    assert unseen.UNSEEN_JSON == experiments.UNSEEN_JSON
    assert results.SPLIT == experiments.SPLIT


def test_the_table_has_the_columns_of_the_report_and_a_real_run_in_them(tiny_run: Path) -> None:
    done = table(tiny_run.parent)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].split(",") == REPORT
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    said = json.loads((tiny_run / "run.json").read_text())
    assert (row["exp_num"], row["base model"], row["run"]) == ("tiny", "test_efficientnet", str(tiny_run))
    assert (row["epochs"], row["batch"], row["augmentation"]) == ("2", "8", "flips phantoms=4")
    assert (row["TTA"], row["pseudo-label"], row["n"]) == ("hflip vflip both", "none", "48")
    for column, part in (("AUC(CV)", "cross_validation"), ("AUC(inner_test)", "inner_test")):
        for suffix, key in (("", "auc"), (" low", "auc_low"), (" high", "auc_high")):
            assert float(row[column + suffix]) == pytest.approx(said[part][key], abs=5.01e-5)
    assert float(row["time (s)"]) == pytest.approx(said["seconds"], abs=0.501)
    assert float(row["images/s"]) == pytest.approx(said["images_per_s"], abs=0.0501)
    assert float(row["images/s"]) > 0


def test_every_condition_of_a_recipe_is_told(tmp_path: Path) -> None:
    recipe = Recipe(
        name="0p1",
        network=Network("resnest50d"),
        views=("identity",),
        split=Split(test_size=0.9),
        phantoms=Phantoms(12),
        augment=Augment(flips=False, augmix=3, scale=0.25),
        training=Training(
            epochs=7, batch_size=32, accumulate=2, learning_rate=5e-5, scheduler="none", loss="focal",
            label_smoothing=0.15,
        ),
    )  # fmt: skip
    (row,) = rows_of(run_folder(tmp_path / "run", recipe, SUMMARY))
    assert row == {
        "exp_num": "0p1",
        "base model": "resnest50d",
        "scheduler": "none",
        "augmentation": "augmix=3 scale=0.25 phantoms=12",
        "test_size": "0.9",
        "label smoothing": "0.15",
        "loss": "focal",
        "lr": "5e-05",
        "batch": "64",
        "epochs": "7",
        "TTA": "none",
        "pseudo-label": "none",
        "AUC(CV)": "0.9893",
        "AUC(CV) low": "0.9700",
        "AUC(CV) high": "1.0000",
        "AUC(inner_test)": "0.9520",
        "AUC(inner_test) low": "0.9000",
        "AUC(inner_test) high": "0.9900",
        "time (s)": "1235",
        "images/s": "45.7",
        "n": "700",
        "seeds": "",
        "preprocessing": f"revision {REVISION}",
        "run": str(tmp_path / "run"),
    }


def test_no_augmentation_is_told(tmp_path: Path) -> None:
    (row,) = rows_of(run_folder(tmp_path / "run", replace(RECIPE, augment=Augment(flips=False))))
    assert row["augmentation"] == "none"


@pytest.mark.parametrize(
    ("views", "said"),
    [
        (("identity",), "none"),
        (("identity", "hflip"), "hflip"),
        (("vflip", "identity"), "vflip"),
        (("hflip",), "only hflip"),
    ],
)
def test_the_views_are_told_as_they_are(views: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (row,) = rows_of(run_folder(tmp_path / "run", replace(RECIPE, views=views)))
    assert row["TTA"] == said


def test_a_round_of_pseudo_labels_is_a_row_of_its_own(tmp_path: Path) -> None:
    recipe = replace(RECIPE, name="0p6", pseudo_labels=PseudoLabels(rounds=6))
    counts = {"round": 0, "n_positive": 0, "n_negative": 0}
    run = run_folder(tmp_path / "b", recipe, SUMMARY | {"pseudo_labels": counts})
    for number in (2, 1):
        counts = {"round": number, "n_positive": 10 * number, "n_negative": 30}
        run_folder(run / f"round_{number}", recipe, SUMMARY | {"pseudo_labels": counts})
    run_folder(tmp_path / "a", summary=SUMMARY)
    rows = rows_of(tmp_path)
    assert [row["exp_num"] for row in rows] == ["000", "0p6", "0p6/round_1", "0p6/round_2"]
    assert [row["pseudo-label"] for row in rows] == [
        "none",
        "none",
        "round 1: 10 positive, 30 negative",
        "round 2: 20 positive, 30 negative",
    ]


def test_several_labels_show_their_mean_auc_without_an_interval(tmp_path: Path) -> None:
    several = {"auc_macro": 0.75, "labels": [{"auc": 0.5}, {"auc": 1.0}]}
    run_folder(tmp_path / "a", summary=SUMMARY | {"cross_validation": several})
    run_folder(tmp_path / "b", summary=SUMMARY | {"cross_validation": {"auc_macro": None, "labels": []}})
    rows = rows_of(tmp_path)
    assert [row["AUC(CV)"] for row in rows] == ["0.7500", ""]
    assert {row["AUC(CV) low"] for row in rows} == {""}


def test_an_unfinished_run_has_no_auc_and_is_named_on_stderr(tmp_path: Path, tiny_run: Path) -> None:
    cut = tmp_path / "runs" / "cut"
    shutil.copytree(tiny_run, cut)
    (cut / "run.json").unlink()
    run_folder(tmp_path / "runs" / "done", summary=SUMMARY)
    done = table(tmp_path / "runs")
    assert done.exit_code == 0
    first, second = csv.DictReader(io.StringIO(done.stdout))
    assert (first["exp_num"], first["AUC(CV)"], first["AUC(inner_test)"], first["n"]) == ("tiny", "", "", "")
    assert (second["exp_num"], second["AUC(CV)"]) == ("000", "0.9893")
    assert done.stderr.replace("\n", " ").startswith(f"Not finished: {cut}. Run the same command again")


def test_a_run_that_left_sources_out_stands_beside_the_others(tmp_path: Path) -> None:
    run_folder(tmp_path / "a", summary=SUMMARY)
    found = [
        unseen.Unseen("hygd", 10, 5, experiments_interval(0.8), (0.8,)),
        unseen.Unseen("odir", 10, 5, experiments_interval(0.7), (0.7,)),
    ]
    run_folder(tmp_path / "b")
    content = {"recipe": asdict(RECIPE), "seeds": [0], "sources": [asdict(each) for each in found]}
    (tmp_path / "b" / "unseen.json").write_text(json.dumps(content))
    first, second = rows_of(tmp_path)
    assert (second["AUC(unseen hygd)"], second["AUC(unseen odir) low"]) == ("0.8000", "0.6000")
    assert (first["AUC(unseen hygd)"], first["AUC(CV)"], second["AUC(CV)"]) == ("", "0.9893", "")
    assert list(first) == list(second)
    assert [second[name] for name in ("time (s)", "images/s", "n", "seeds")] == ["", "", "", "1"]
    more = {"n_images": 20, "seconds": 61.5, "images_per_s": 33.3, "seeds": [0, 1]}
    (tmp_path / "b" / "unseen.json").write_text(json.dumps(content | more))
    _, second = rows_of(tmp_path)
    assert [second[name] for name in ("time (s)", "images/s", "n", "seeds")] == ["62", "33.3", "20", "2"]


def experiments_interval(value: float) -> Any:
    return unseen.Interval(value, value - 0.1, value + 0.1)


def test_a_run_that_two_arguments_reach_is_one_row(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "runs" / "a", summary=SUMMARY)
    assert len(rows_of(run, tmp_path / "runs")) == 1


def test_a_run_json_of_another_command_is_no_training_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"command": "score"}))
    with pytest.raises(UsageError, match=r"There is no training run in .* Make one with: fundus-train fit"):
        find_runs([tmp_path])


def test_runs_of_another_preprocessing_are_rows_and_say_so(tmp_path: Path) -> None:
    run_folder(tmp_path / "a", summary=SUMMARY)
    for name, revision in (("b", {"revision": REVISION + 1}), ("c", {})):
        path = run_folder(tmp_path / name, summary=SUMMARY) / "identity.json"
        content = json.loads(path.read_text())
        del content["recipe"]["preprocess"]["revision"]
        content["recipe"]["preprocess"] |= revision
        path.write_text(json.dumps(content))
    said = [row["preprocessing"] for row in rows_of(tmp_path)]
    assert said == [f"revision {number}" for number in (REVISION, REVISION + 1, 1)]


@pytest.mark.parametrize("content", ["{", '{"recipe": {"name": "x", "netwrk": {}}}', "{}"])
def test_a_run_that_cannot_be_understood_is_named(content: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "strange")
    (run / "identity.json").write_text(content)
    with pytest.raises(BundleError, match="strange"):
        find_runs([tmp_path])


def test_the_table_is_written_as_csv_and_as_markdown(tmp_path: Path) -> None:
    run_folder(tmp_path / "runs" / "a", replace(RECIPE, name="a|b, c"), SUMMARY)
    run_folder(tmp_path / "runs" / "b")
    rows = rows_of(tmp_path / "runs")
    for name in ("table.csv", "table.md"):
        assert table(tmp_path / "runs", "--output", tmp_path / name).stdout == csv_text(rows)
    with (tmp_path / "table.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == rows
    lines = (tmp_path / "table.md").read_text().splitlines()
    cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    assert lines == markdown_text(rows).splitlines()
    assert [len(line) for line in cells] == [len(REPORT)] * 4
    assert (cells[0], set(cells[1]), cells[2][0]) == (REPORT, {"---"}, "a&#124;b, c")


def test_a_table_of_another_kind_or_in_no_folder_is_a_sentence(tmp_path: Path) -> None:
    run_folder(tmp_path / "runs", summary=SUMMARY)
    done = table(tmp_path / "runs", "--output", tmp_path / "table.xlsx")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "ends in no known format. Choose a name in .csv or .md" in done.stderr
    with pytest.raises(UsageError, match=r"cannot be written: No such file or directory. Choose another"):
        write_rows(tmp_path / "nowhere" / "table.csv", rows_of(tmp_path))


def test_a_terminal_shows_what_differs_and_says_the_rest_once(tmp_path: Path) -> None:
    run_folder(tmp_path / "a", summary=SUMMARY)
    smoothed = replace(RECIPE, name="[001]", training=Training(label_smoothing=0.1))
    run_folder(tmp_path / "b", smoothed, SUMMARY)
    screen = Console(file=io.StringIO(), force_terminal=True, width=400, markup=False, no_color=True)
    _show(screen, rows_of(tmp_path))
    header, *lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "label smoothing" in header
    assert "[001]" in lines[1]
    assert "base model" not in header
    assert "AUC(CV) low" in header
    assert "In every run: base model efficientnet_b0, scheduler cosine" in lines[2]


def test_the_table_needs_neither_torch_nor_scikit_learn(tmp_path: Path) -> None:
    run_folder(tmp_path / "a", summary=SUMMARY)
    code = (
        "import sys; from fundus_train.cli import main; main(['table', sys.argv[1]], standalone_mode=False); "
        "print(sorted({'torch', 'sklearn', 'lightning', 'mlflow'} & sys.modules.keys()))"
    )
    line = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
