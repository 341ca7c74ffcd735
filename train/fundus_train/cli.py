"""`fundus-train`: from labelled photographs to the folds of an ensemble."""

import click

from fundus_core.console import FundusGroup
from fundus_train.commands.fit import fit
from fundus_train.commands.prepare import prepare
from fundus_train.commands.preview import preview
from fundus_train.commands.record import record
from fundus_train.commands.table import table
from fundus_train.commands.unseen import unseen
from fundus_train.commands.views import views


@click.group(cls=FundusGroup)
@click.version_option(package_name="fundus-triton")
def main() -> None:
    """Train the folds of a fundus ensemble."""


main.add_command(fit)
main.add_command(prepare)
main.add_command(preview)
main.add_command(record)
main.add_command(table)
main.add_command(unseen)
main.add_command(views)
