"""`fundus-client pacs`: from a hospital's archive, and back into it."""

import click

from fundus_client.commands.pacs.listen import listen
from fundus_client.commands.pacs.pull import pull
from fundus_client.commands.pacs.send import send

EPILOG = """\b
Example: a night in three commands, each of which can be run again after an interruption:
  fundus-client pacs pull night --from yesterday --peer PACS@pacs:104 --host 0.0.0.0
  fundus-client score night --output night.csv --sr reports
  fundus-client pacs send reports --peer PACS@pacs:104"""


@click.group(epilog=EPILOG)
def pacs() -> None:
    """Fetch photographs from an archive (PACS), send reports to it, or listen for studies."""


for command in (pull, send, listen):
    pacs.add_command(command)
