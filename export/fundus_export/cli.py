"""`fundus-export`: make a Triton model repository from a run, check it, tune how it is served."""

import click

from fundus_core.console import FundusGroup
from fundus_export.commands.check import check
from fundus_export.commands.configs import configs
from fundus_export.commands.deploy import deploy, rollback
from fundus_export.commands.repository import repository
from fundus_export.commands.tensorrt import tensorrt
from fundus_export.commands.verify import verify


@click.group(cls=FundusGroup)
@click.version_option(package_name="fundus-triton")
def main() -> None:
    """Export trained folds for serving."""


for command in (repository, verify, check, configs, tensorrt, deploy, rollback):
    main.add_command(command)
