"""`fundus-client`: score fundus photographs through Triton servers."""

import signal
import sys

import click

from fundus_client.commands.doctor import doctor
from fundus_client.commands.environment import with_variables
from fundus_client.commands.explain import explain
from fundus_client.commands.pacs import pacs
from fundus_client.commands.sample import sample
from fundus_client.commands.score import score
from fundus_client.commands.serve import serve
from fundus_client.commands.verify import verify
from fundus_client.commands.watch import watch
from fundus_core.console import FundusGroup, say_warnings


@click.group(cls=FundusGroup, context_settings={"show_default": True})
@click.version_option(package_name="fundus-triton", prog_name="fundus-client")
def main() -> None:
    """Detect glaucoma on colour fundus photographs, in batches."""
    say_warnings("fundus_client")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # unwinds: the server ends too


for command in (score, explain, watch, pacs, serve, doctor, verify, sample):
    main.add_command(with_variables(command))
