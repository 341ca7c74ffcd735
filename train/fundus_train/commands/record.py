"""`fundus-train record`: runs for MLflow's UI."""

from pathlib import Path

import click

from fundus_core.console import FOLDER, progress_bar, say
from fundus_core.errors import MissingExtraError
from fundus_train.experiments import find_runs
from fundus_train.record import record_runs

EXAMPLE = "Example:\n\n\b\n  fundus-train record runs --store sqlite:///mlflow.db"


@click.command(epilog=EXAMPLE)
@click.argument("folders", metavar="RUN...", nargs=-1, required=True, type=FOLDER)
@click.option(
    "--store", default="sqlite:///mlflow.db", show_default=True, help="MLflow's address, or file:./mlruns."
)
@click.option("--experiment", default="fundus-triton", show_default=True, help="MLflow's experiment.")
def record(folders: tuple[Path, ...], store: str, experiment: str) -> None:
    """Record all finished runs in and below the folders RUN in a store that MLflow's UI shows.

    A run becomes its recipe (parameters), AUCs with intervals and curves (metrics), versions (tags) and its
    tables of scores. A run that the store holds already is left as it is.
    """
    runs = find_runs(folders)
    finished = [run for run in runs if run.summary]
    with progress_bar() as progress:
        shown = progress.track(finished, description="recording")
        try:
            new = record_runs(shown, store, experiment)
        except ImportError as error:
            raise MissingExtraError("mlflow", f"the package '{error.name}'") from None
    for run in runs:
        if not run.summary:
            say(f"Not finished, so not recorded: {run.folder}")
    click.echo(f"recorded {new} runs in {store}, {len(finished) - new} were there")
