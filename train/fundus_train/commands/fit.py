"""`fundus-train fit`: train the folds of a recipe, in rounds where it makes pseudo-labels."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fundus_core.console import FILE, FOLDER, progress_bar, quiet_libraries, say
from fundus_core.errors import MissingExtraError
from fundus_core.reading import read_labels
from fundus_eval.evaluation import Evaluation
from fundus_train.commands.left_out import say_left_out
from fundus_train.guards import claimed, full_disk, joined, launched_rank, resumable
from fundus_train.recipe import read_recipe

if TYPE_CHECKING:
    import lightning as lit

    from fundus_train.parallel import Workers
    from fundus_train.results import Fitted

EXAMPLE = """\b
Example:
  fundus-train fit recipe.toml --data labels.csv --images photos --output runs/first

\b
Exit codes: 0 done, 1 fatal, 2 usage, 130 or 143 stopped by a signal (the same command resumes)."""


@click.command(epilog=EXAMPLE)
@click.argument("recipe", type=FILE)
@click.option("--data", required=True, type=FILE, help="Labels: image_id, 0/1 columns, patient_id, source.")
@click.option("--images", required=True, type=FOLDER, help="The folder that image_id is relative to.")
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="Run folder; resumed if there."
)
@click.option("--weights", type=FILE, help="Local ImageNet weights (safetensors, timm's names).")
@click.option("--accelerator", default="auto", show_default=True, help="auto, cpu, gpu, … (Fabric).")
@click.option("--devices", default=1, show_default=True, help="How many devices share each batch.")
@click.option(
    "--parallel", default=1, show_default=True, type=click.IntRange(1), help="How many folds train at once."
)
@click.option("--only", type=(int, int), hidden=True, help="Train one fold of one round: ROUND FOLD.")
def fit(
    recipe: Path,
    data: Path,
    images: Path,
    output: Path,
    weights: Path | None,
    accelerator: str,
    devices: int,
    parallel: int,
    only: tuple[int, int] | None,
) -> None:
    """Train every fold of RECIPE and print AUC(CV) and AUC(inner_test) with 95 % intervals.

    Writes into --output: a checkpoint per fold, epochs.csv, oof.csv and inner_test.csv (scores), split.csv
    (part and labels of each image), dropped.csv (what was left out, and why) and run.json.

    With --parallel, each fold trains in a process with its own devices and its share of the CPU cores.

    A recipe with pseudo_labels adds rounds, each a run folder inside --output: labels that the last round was
    sure of, on inner-test and unlabelled images, are added to the training parts. It stops when AUC(CV)
    falls; rounds.csv compares them. From round 1 on the inner test has been trained on with labels that the
    ensemble made up (none of its own labels), so its AUC is transductive.
    """
    quiet_libraries()
    plan = read_recipe(recipe)
    labels = read_labels(data, plan.labels)
    with resumable(), full_disk(output):
        try:
            from fundus_train.devices import launched
            from fundus_train.fit import IDENTITY, Experiment, identity
        except ImportError as error:
            raise MissingExtraError("train", f"the package '{error.name}'") from None
        alone = only is None and not launched_rank()
        claim = claimed if alone else joined
        with claim(output / IDENTITY, identity(plan, labels, weights)) as lock:
            apart = parallel > 1 and only is None
            fabric = launched(accelerator, 1 if apart else devices, plan.training.precision)
            line = _command_line(recipe, data, images, output, weights, accelerator, devices)
            workers = _workers(line, parallel, devices, fabric, lock) if apart and lock is not None else None
            with progress_bar() as progress, _ranks_of(fabric):
                experiment = Experiment(plan, labels, images, output, weights, fabric, progress, workers)
                rounds = experiment.fit() if only is None else experiment.fit_only(*only)
    if rounds and fabric.is_global_zero:
        _print(rounds)


@contextmanager
def _ranks_of(fabric: "lit.Fabric") -> Iterator[None]:
    """End the processes that share the batches when this one fails or is stopped."""
    try:
        yield
    except BaseException:
        for process in getattr(fabric.strategy.launcher, "procs", ()):
            process.terminate()
        raise


def _command_line(
    recipe: Path, data: Path, images: Path, output: Path, weights: Path | None, accelerator: str, devices: int
) -> tuple[str, ...]:
    places = (str(recipe), "--data", str(data), "--images", str(images), "--output", str(output))
    own = ("--weights", str(weights)) if weights else ()
    device = ("--accelerator", accelerator, "--devices", str(devices))
    return (sys.executable, "-m", "fundus_train", "fit", *places, *own, *device)


def _workers(line: tuple[str, ...], count: int, devices: int, fabric: "lit.Fabric", lock: int) -> "Workers":
    import torch

    from fundus_train.parallel import Workers, visible_gpus

    gpus = visible_gpus(torch.cuda.device_count()) if fabric.device.type == "cuda" else ()
    return Workers(line, count, devices, gpus, lock)


def _print(rounds: "Sequence[Fitted]") -> None:
    from fundus_train.pseudo import best_round

    best = best_round(rounds)
    say_left_out(best.run)
    for each in rounds if len(rounds) > 1 else ():
        aucs = f"AUC(CV) {_auc(each.cross_validation)}  AUC(inner_test) {_auc(each.inner_test)}"
        made = f"{each.n_positive} positive and {each.n_negative} negative pseudo-labels"
        click.echo(f"round {each.round}  {aucs}  {made}{'  best' if each is best else ''}")
    by_source = {f"AUC({name})": each for name, each in best.inner_test_by_source.items()}
    for name, evaluation in (
        ("AUC(CV)", best.cross_validation),
        ("AUC(inner_test)", best.inner_test),
        *by_source.items(),
    ):
        for label in evaluation.labels:
            images = f"{label.n} images, {label.n_positive} positive"
            click.echo(f"{label.label}  {name:<24}{label.auc or label.auc_missing_reason}  {images}")
    if best.round:
        say("The inner test is transductive: trained on with pseudo-labels. AUC(CV) chose the round.")
    say(f"Run: {best.run}. Next: fundus-export repository {best.run} MODEL_REPOSITORY")


def _auc(evaluation: Evaluation) -> str:
    if len(evaluation.labels) == 1:
        return str(evaluation.labels[0].auc)
    return f"{evaluation.auc_macro:.3f}" if evaluation.auc_macro is not None else "unknown"
