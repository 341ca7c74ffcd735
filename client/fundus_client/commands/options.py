"""Options that several commands share."""

from pathlib import Path

import click

from fundus_core.console import FILE as FILE
from fundus_core.console import FOLDER as FOLDER

PATH = click.Path(path_type=Path)
SECONDS = click.FloatRange(0, min_open=True)
PORT = click.IntRange(1, 65535)

URLS = click.option(
    "--url",
    "urls",
    multiple=True,
    help="host:port of a Triton gRPC server; repeatable. [default: start the embedded one]",
)
REPOSITORY = click.option(
    "--repository", type=PATH, help="Model repository to serve. [default: the reference ensemble]"
)
TIMEOUT = click.option(
    "--timeout", default=120.0, show_default=True, type=SECONDS, help="Seconds to wait for one answer."
)
WAIT = click.option(
    "--wait", default=120.0, show_default=True, type=SECONDS, help="Seconds to wait for any ready server."
)
