"""`fundus-eval`: compare tables of scores with a table of labels."""

import click

from fundus_core.console import FundusGroup
from fundus_eval.commands.auc import auc
from fundus_eval.commands.compare import compare
from fundus_eval.commands.report import report


@click.group(cls=FundusGroup, epilog="\b\nExample:\n  fundus-eval auc scores.csv labels.csv")
@click.version_option(package_name="fundus-triton", prog_name="fundus-eval")
def main() -> None:
    """Say how well scores agree with labels."""


main.add_command(auc)
main.add_command(compare)
main.add_command(report)
