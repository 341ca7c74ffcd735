import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fundus_train.cli import main as fundus_train

pytest.importorskip("mlflow", reason="recording needs the mlflow extra")

CURVES = ("loss", "learning_rate")


def record(*arguments: object) -> Result:
    return CliRunner().invoke(fundus_train, ["record", *map(str, arguments)])


def client(store: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store)


def runs_in(store: str, experiment: str = "fundus-triton") -> dict[str, Any]:
    there = client(store)
    found = there.search_runs([there.get_experiment_by_name(experiment).experiment_id])
    return {run.info.run_name: run for run in found}


@pytest.fixture(scope="module")
def folder(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run, the same as a first round inside it, and an unfinished one."""
    folder = tmp_path_factory.mktemp("recorded")
    for name in ("runs/tiny", "runs/tiny/round_1", "runs/cut"):
        shutil.copytree(tiny_run, folder / name)
    said = json.loads((tiny_run / "run.json").read_text())
    said["pseudo_labels"] = {"round": 1, "n_positive": 3, "n_negative": 4}
    (folder / "runs/tiny/round_1/run.json").write_text(json.dumps(said))
    (folder / "runs/cut/run.json").unlink()
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> str:
    """A SQLite store with the runs, recorded twice."""
    store = f"sqlite:///{folder}/mlflow.db"
    first, second = (record(folder / "runs", "--store", store) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert first.stdout == f"recorded 2 runs in {store}, 0 were there\n"
    assert second.stdout == f"recorded 0 runs in {store}, 2 were there\n"
    assert f"Not finished, so not recorded: {folder}/runs/cut" in first.stderr.replace("\n", "")
    return store


def test_each_finished_run_is_there_once(store: str) -> None:
    found = runs_in(store)
    assert sorted(found) == ["tiny", "tiny/round_1"]
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_the_curves_of_a_run_that_left_sources_out_are_there_by_network(
    tiny_run: Path, tmp_path: Path
) -> None:
    run, store = tmp_path / "unseen", f"sqlite:///{tmp_path}/mlflow.db"
    run.mkdir()
    shutil.copy(tiny_run / "identity.json", run)
    header, *_ = (tiny_run / "epochs.csv").read_text().splitlines()
    (run / "epochs.csv").write_text(f"{header}\neast (2)-seed0,1,0.5,,0.001,40,1.0\n")
    auc = {"value": 0.8, "low": 0.7, "high": 0.9}
    (run / "unseen.json").write_text(
        json.dumps({"seconds": 1.0, "sources": [{"source": "east (2)", "auc": auc}]})
    )
    done = record(run, "--store", store)
    assert done.exit_code == 0, done.output
    (found,) = runs_in(store).values()
    assert found.data.metrics["east  2 -seed0/loss"] == 0.5
    assert found.data.metrics["seconds"] == 1.0


def test_the_recipe_becomes_parameters(store: str) -> None:
    found = runs_in(store)
    params = found["tiny/round_1"].data.params
    assert params["network.architecture"] == "test_efficientnet"
    assert (params["training.epochs"], params["split.test_size"]) == ("2", "0.3")
    assert params["views"] == "identity hflip vflip both"
    assert (params["pseudo_labels.round"], params["pseudo_labels.n_positive"]) == ("1", "3")
    assert found["tiny"].data.params["pseudo_labels.round"] == "0"


def test_the_aucs_become_metrics_with_their_intervals(store: str, tiny_run: Path) -> None:
    said = json.loads((tiny_run / "run.json").read_text())
    metrics = runs_in(store)["tiny"].data.metrics
    for name, part in (("AUC CV", "cross_validation"), ("AUC inner_test", "inner_test")):
        for end, key in (("", "auc"), (" low", "auc_low"), (" high", "auc_high")):
            assert metrics[name + end] == said[part][key]
    assert (metrics["n_images"], metrics["seconds"]) == (48, said["seconds"])


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("fold", [0, 1])
def test_every_epoch_is_a_step_at_its_time(name: str, fold: int, store: str, tiny_run: Path) -> None:
    with (tiny_run / "epochs.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["fold"] == str(fold)]
    run = runs_in(store)["tiny"].info
    history = client(store).get_metric_history(run.run_id, f"fold_{fold}/{name}")
    history.sort(key=lambda each: each.step)
    assert [(each.step, each.value) for each in history] == [
        (int(row["epoch"]), float(row[name])) for row in rows
    ]
    assert len(history) == 2
    times = [each.timestamp for each in history]
    assert run.start_time < times[0] < times[1] <= run.end_time + 1
    assert times[1] - times[0] == pytest.approx(1000 * float(rows[1]["seconds"]), abs=2)


def test_what_was_not_validated_has_no_curve(store: str) -> None:
    assert not [name for name in runs_in(store)["tiny"].data.metrics if "validation_auc" in name]


def test_versions_and_the_digest_of_the_labels_are_tags(store: str, tiny_run: Path) -> None:
    tags = runs_in(store)["tiny"].data.tags
    assert tags["labels_sha256"] == json.loads((tiny_run / "identity.json").read_text())["labels_sha256"]
    assert tags["version.torch"] == json.loads((tiny_run / "run.json").read_text())["versions"]["torch"]


def test_only_the_tables_of_scores_are_sent_and_lie_beside_the_database(store: str, folder: Path) -> None:
    run = runs_in(store)["tiny"]
    assert [each.path for each in client(store).list_artifacts(run.info.run_id)] == [
        "inner_test.csv",
        "oof.csv",
    ]
    sent = [path for path in (folder / "mlartifacts").rglob("*") if path.is_file()]
    assert {path.name for path in sent} == {"inner_test.csv", "oof.csv"}
    assert (folder / "runs/tiny/oof.csv").read_bytes() in [path.read_bytes() for path in sent]
    assert run.info.artifact_uri.startswith((folder / "mlartifacts").as_uri())


def test_no_patient_reaches_the_store(store: str, folder: Path, phantom_folder: Path) -> None:
    with (phantom_folder / "labels.csv").open() as file:
        patients = [row["patient_id"].encode() for row in csv.DictReader(file)]
    files = [folder / "mlflow.db", *(path for path in (folder / "mlartifacts").rglob("*") if path.is_file())]
    content = b"".join(path.read_bytes() for path in files)
    assert b"test_efficientnet" in content
    assert not [patient for patient in patients if patient in content]


def test_mlflow_is_kept_from_phoning_home(store: str) -> None:
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert is_telemetry_disabled()


def test_a_half_recorded_run_is_recorded_anew(store: str, folder: Path) -> None:
    before = runs_in(store)["tiny"].info.run_id
    client(store).update_run(before, status="RUNNING")
    done = record(folder / "runs", "--store", store)
    assert done.stdout == f"recorded 1 runs in {store}, 1 were there\n"
    after = runs_in(store)
    assert sorted(after) == ["tiny", "tiny/round_1"]
    assert after["tiny"].info.run_id != before
    assert after["tiny"].info.status == "FINISHED"


def test_an_experiment_has_its_own_runs(store: str, folder: Path) -> None:
    done = record(folder / "runs/tiny/round_1", "--store", store, "--experiment", "report")
    assert done.stdout.startswith("recorded 1 runs")
    assert list(runs_in(store, "report")) == ["tiny/round_1"]
    assert len(runs_in(store)) == 2


def test_a_folder_is_a_store_too(folder: Path, tmp_path: Path) -> None:
    store = f"file:{tmp_path}/mlruns"
    assert record(folder / "runs/tiny", "--store", store).stdout.startswith("recorded 2 runs")
    found = runs_in(store)
    assert sorted(found) == ["tiny", "tiny/round_1"]
    assert found["tiny"].data.metrics["AUC CV"] > 0


@pytest.mark.parametrize(
    ("store", "sentence"),
    [
        ("sqlite:////no/such/folder/mlflow.db", "lies in no folder. Make the folder first."),
        ("ftp://somewhere", "MLflow cannot use the store 'ftp://somewhere': "),
    ],
)
def test_a_store_that_cannot_be_opened_is_a_sentence(store: str, sentence: str, folder: Path) -> None:
    done = record(folder / "runs", "--store", store)
    assert (done.exit_code, done.stdout) == (2, "")
    assert sentence in done.stderr


def test_without_mlflow_the_sentence_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlflow", "mlflow.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    done = record(folder / "runs", "--store", f"sqlite:///{folder}/other.db")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "pip install 'fundus-triton[mlflow]'" in done.stderr
