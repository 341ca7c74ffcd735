"""`fundus-client sample`: synthetic photographs to try the tool on."""

from pathlib import Path

import click

from fundus_client.commands.options import PATH
from fundus_core.console import progress_bar
from fundus_core.phantoms import write_samples


@click.command(epilog="Example:\n\n\b\n  fundus-client sample demo -n 64")
@click.argument("folder", type=PATH)
@click.option("-n", "--count", default=64, show_default=True, help="How many images.")
@click.option("--seed", default=0, show_default=True, help="Seed of the first image.")
def sample(folder: Path, count: int, seed: int) -> None:
    """Write synthetic fundus phantoms and their labels.csv into FOLDER.

    They are drawings, no photographs: the label is the cup-to-disc ratio that was drawn. Good for trying the
    tool without patient data; a score on them says nothing about an eye.
    """
    with progress_bar() as progress:
        for _ in progress.track(write_samples(folder, count, seed), total=count, description="drawing"):
            pass
    click.echo(f"{count} synthetic phantoms and labels.csv in {folder}")
