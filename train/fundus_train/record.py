"""Runs recorded into a store that MLflow's UI shows. Image ids and scores are sent, nothing of a patient."""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fundus_core.errors import UsageError
from fundus_core.provenance import sha256_of
from fundus_core.sheet import read_sheet
from fundus_train.experiments import LIMITS, RUN_JSON, UNSEEN_JSON, Run, flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

EPOCHS = "epochs.csv"
CURVES = ("loss", "validation_auc", "learning_rate")
ARTIFACTS = ("oof.csv", "inner_test.csv")
TAG = "fundus_triton.sha256"  # of run.json or unseen.json: the same content is the same run, wherever it lies
SQLITE = "sqlite:///"
METRICS_A_CALL = 1000  # MLflow's limit
SETTINGS = {  # MLflow reads the first when it is imported
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # 7 would take minutes
}


@dataclass(frozen=True)
class Recorder:
    """One experiment of an open MLflow store."""

    client: "MlflowClient"
    experiment_id: str

    def record(self, run: Run) -> bool:
        """Record a finished run; return False where the store holds it already."""
        path = summary_path(run)
        digest = sha256_of(path)
        for there in self.client.search_runs([self.experiment_id], f"tags.`{TAG}` = '{digest}'"):
            if there.info.status == "FINISHED":
                return False
            self.client.delete_run(there.info.run_id)  # an interrupted command left it half-written
        ended = path.stat().st_mtime
        started = ended - float(run.summary.get("seconds", 0))
        made = self.client.create_run(
            self.experiment_id, _milliseconds(started), _tags(run) | {TAG: digest}, run.name
        )
        self._fill(made.info.run_id, run, started, ended)
        self.client.set_terminated(made.info.run_id, end_time=_milliseconds(ended))
        return True

    def _fill(self, run_id: str, run: Run, started: float, ended: float) -> None:
        from mlflow.entities import Param

        pseudo_labels = {"pseudo_labels": run.summary.get("pseudo_labels", {})}
        values = flatten(asdict(run.recipe)) | flatten(pseudo_labels)
        self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in values.items()])
        metrics = [*_results(run, ended), *_curves(run, started)]
        for first in range(0, len(metrics), METRICS_A_CALL):
            self.client.log_batch(run_id, metrics[first : first + METRICS_A_CALL])
        for name in ARTIFACTS:
            if (run.folder / name).exists():
                self.client.log_artifact(run_id, run.folder / name)


def record_runs(runs: Iterable[Run], store: str, experiment: str) -> int:
    """Record finished runs in `store`, MLflow's address of it; return how many were not there before.

    Raises:
        UsageError: MLflow cannot use the store.
        ImportError: MLflow, or what it needs for this kind of store, is not installed.
    """
    os.environ.update(SETTINGS)
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    _check_folder(store)
    try:
        recorder = _open(store, experiment)
        return sum(recorder.record(run) for run in runs)
    except MlflowException as error:
        hint = "Choose one such as sqlite:///mlflow.db or file:./mlruns."
        raise UsageError(f"MLflow cannot use the store '{store}': {str(error).strip(' .')}. {hint}") from None


def _open(store: str, experiment: str) -> Recorder:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    there = client.get_experiment_by_name(experiment)
    known = there and there.experiment_id
    return Recorder(client, known or client.create_experiment(experiment, _artifacts(store, experiment)))


def summary_path(run: Run) -> Path:
    """Return the file that says how a finished run was made."""
    return run.folder / (RUN_JSON if (run.folder / RUN_JSON).exists() else UNSEEN_JSON)


def _check_folder(store: str) -> None:
    """Refuse a database in no folder: MLflow would try it for a minute."""
    if store.startswith(SQLITE) and not Path(store.removeprefix(SQLITE)).parent.is_dir():
        raise UsageError(f"The store '{store}' lies in no folder. Make the folder first.")


def _artifacts(store: str, experiment: str) -> str | None:
    """Return the folder of the tables: beside a database; MLflow would take the working directory."""
    if not store.startswith(SQLITE):
        return None
    return (Path(store.removeprefix(SQLITE)).resolve().parent / "mlartifacts" / experiment).as_uri()


def _tags(run: Run) -> dict[str, str]:
    versions = run.summary.get("versions", {})
    return {"labels_sha256": run.labels_sha256} | {f"version.{name}": each for name, each in versions.items()}


def _results(run: Run, ended: float) -> "Iterator[Metric]":
    from mlflow.entities import Metric

    values = {
        _metric_name(name) + limit: value
        for name, interval in run.figures.items()
        for limit, value in zip(LIMITS, interval, strict=True)
    }
    values |= {name: run.summary.get(name) for name in ("n_images", "seconds", "images_per_s")}
    for name, value in values.items():
        if value is not None:
            yield Metric(name, value, _milliseconds(ended), 0)


def _curves(run: Run, started: float) -> "Iterator[Metric]":
    """Yield each fold's curves. An epoch ends as many seconds after the start as all so far have taken."""
    from mlflow.entities import Metric

    path = run.folder / EPOCHS
    if not path.exists():
        return
    sheet, now = read_sheet(path, UsageError), started
    columns = [sheet.texts(name) for name in CURVES]
    of_epochs = zip(*(sheet.texts(name) for name in ("fold", "epoch", "seconds")), *columns, strict=True)
    for fold, epoch, seconds, *values in of_epochs:
        now += float(seconds)
        for name, value in zip(CURVES, values, strict=True):
            if value:
                metric = _metric_name(f"fold_{fold}/{name}" if fold.isdecimal() else f"{fold}/{name}")
                yield Metric(metric, float(value), _milliseconds(now), int(epoch))


def _metric_name(name: str) -> str:
    """Return what MLflow takes as a name: no brackets, for instance."""
    return re.sub(r"[^\w./ -]", " ", name).strip()


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
