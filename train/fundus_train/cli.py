"""`fundus-train`: train the folds of an ensemble from a recipe and a labels table."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fundus_core.console import FundusGroup, progress_bar, quiet_libraries, say
from fundus_core.errors import MissingExtraError
from fundus_core.tables import read_labels
from fundus_train.recipe import read_recipe

if TYPE_CHECKING:
    from fundus_train.fit import Fitted

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
EXAMPLE = (
    "Example:\n\n\b\n  fundus-train fit recipe.toml --data labels.csv --images photos --output runs/first"
)


@click.group(cls=FundusGroup)
@click.version_option(package_name="fundus-triton")
def main() -> None:
    """Train the folds of a fundus ensemble."""


@main.command(epilog=EXAMPLE)
@click.argument("recipe", type=FILE)
@click.option(
    "--data", required=True, type=FILE, help="Labels: image_id, a 0/1 column per label, patient_id."
)
@click.option("--images", required=True, type=FOLDER, help="The folder that image_id is relative to.")
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="Run folder; resumed if there."
)
@click.option("--weights", type=FILE, help="Local ImageNet weights (safetensors, timm's names).")
@click.option(
    "--accelerator", default="auto", show_default=True, help="auto, cpu, gpu, … (Lightning Fabric)."
)
@click.option("--devices", default=1, show_default=True, help="How many devices share each batch.")
def fit(
    recipe: Path,
    data: Path,
    images: Path,
    output: Path,
    weights: Path | None,
    accelerator: str,
    devices: int,
) -> None:
    """Train every fold of RECIPE and print AUC(CV) and AUC(inner_test) with 95 % intervals.

    Writes into --output: a checkpoint per fold, oof.csv and inner_test.csv (scores), split.csv (part and
    labels of each image), dropped.csv (what was left out, and why) and run.json.
    """
    quiet_libraries()
    plan = read_recipe(recipe)
    labels = read_labels(data, plan.labels)
    try:
        import lightning as lit

        from fundus_train.allocator import keep_freed_memory
        from fundus_train.fit import Experiment
    except ImportError as error:
        raise MissingExtraError("train", f"the package '{error.name}'") from None
    keep_freed_memory()
    fabric = lit.Fabric(accelerator=accelerator, devices=devices, precision=plan.training.precision)
    fabric.launch()
    with progress_bar() as progress:
        fitted = Experiment(plan, labels, images, output, weights, fabric, progress).fit()
    if fabric.is_global_zero:
        _print(fitted, output)


def _print(fitted: "Fitted", output: Path) -> None:
    for image_id, reason in fitted.dropped:
        say(f"left out {image_id}: {reason}")
    for name, evaluation in (("AUC(CV)", fitted.cross_validation), ("AUC(inner_test)", fitted.inner_test)):
        for label in evaluation.labels:
            images = f"{label.n} images, {label.n_positive} positive"
            click.echo(f"{label.label}  {name:<16}{label.auc or label.auc_missing_reason}  {images}")
    say(f"Run: {output}. Next: fundus-export repository {output} MODEL_REPOSITORY")
