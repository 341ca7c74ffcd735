"""`fundus-train unseen`: how a recipe does on sources that it never saw."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fundus_core.console import FILE, FOLDER, progress_bar, quiet_libraries, say
from fundus_core.errors import MissingExtraError
from fundus_core.reading import read_labels
from fundus_train.commands.left_out import say_left_out
from fundus_train.guards import claimed, full_disk, resumable
from fundus_train.recipe import read_recipe

if TYPE_CHECKING:
    from fundus_train.unseen import Unseen

EXAMPLE = (
    "Example:\n\n\b\n  fundus-train unseen recipe.toml --data labels.csv --images photos --output runs/unseen"
)


@click.command(epilog=EXAMPLE)
@click.argument("recipe", type=FILE)
@click.option("--data", required=True, type=FILE, help="Labels: image_id, source, patient_id, a 0/1 column.")
@click.option("--images", required=True, type=FOLDER, help="The folder that image_id is relative to.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder; resumed if there.")
@click.option("--weights", type=FILE, help="Local ImageNet weights (safetensors, timm's names).")
@click.option(
    "--seeds", default=1, show_default=True, type=click.IntRange(1), help="Networks for each left-out source."
)
@click.option("--accelerator", default="auto", show_default=True, help="auto, cpu, gpu, … (Fabric).")
def unseen(
    recipe: Path, data: Path, images: Path, output: Path, weights: Path | None, seeds: int, accelerator: str
) -> None:
    """Leave one source out: train RECIPE on the other sources, score that one, for each source in turn.

    Prints each source's AUC, by the recipe's first label, with its 95 % interval. Writes into --output: a
    score table for each source, epochs.csv, split.csv (labels of each image; its part is the number of its
    source), dropped.csv (what was left out, and why) and unseen.json; `fundus-train table` compares several
    such folders.

    Every network trains all epochs of the recipe: nothing is held out by which `patience` could stop it.
    """
    quiet_libraries()
    plan = read_recipe(recipe)
    labels = read_labels(data, plan.labels)
    try:
        from fundus_train.devices import launched
        from fundus_train.fit import IDENTITY, identity
        from fundus_train.unseen import LeaveOneSourceOut
    except ImportError as error:
        raise MissingExtraError("train", f"the package '{error.name}'") from None
    fabric = launched(accelerator, 1, plan.training.precision)
    claim = claimed(output / IDENTITY, identity(plan, labels, weights))
    with resumable(), full_disk(output), claim, progress_bar() as progress:
        experiment = LeaveOneSourceOut(plan, labels, images, output, weights, fabric, progress)
        found = experiment.fit(tuple(range(plan.seed, plan.seed + seeds)), output / "cache")
    say_left_out(output)
    _print(found)
    say(f"Run: {output}. Next: compare it with others by fundus-train table")


def _print(found: "tuple[Unseen, ...]") -> None:
    for each in found:
        alone = " ".join(f"{auc:.3f}" for auc in each.seed_auc)
        images = f"{each.n} images, {each.n_positive} positive"
        click.echo(f"{each.source:<16}{each.auc}  {images}  seeds {alone}")
