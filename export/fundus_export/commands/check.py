"""`fundus-export check`: is every file of a repository as it was exported, or deployed?"""

from pathlib import Path

import click

from fundus_core.console import FOLDER
from fundus_core.ensemble import LIVE
from fundus_core.repository import check_repository
from fundus_export.live import check_live, described

EXAMPLE = """\b
Example:
  fundus-export check model_repository

\b
Exit codes: 0 unchanged, 1 a file was changed, is missing or does not belong there."""


@click.command(epilog=EXAMPLE)
@click.argument("repository", type=FOLDER)
def check(repository: Path) -> None:
    """Refuse a REPOSITORY in which a file was changed, is missing, or does not belong there.

    Weights and golden answers have their SHA-256 in manifest.json; everything else is rendered again and
    compared. The bundle digest that is printed covers it all: compare it with the one that you were given.
    A TensorRT plan must be the one of the record beside it, which no digest covers. Compiled Python is
    refused: a server that serves the folder itself would run it.
    Of a live repository every bundle is checked, and the digest of each is printed.
    """
    if (repository / LIVE).exists():
        click.echo(described(repository, check_live(repository)))
        return
    spec = check_repository(repository, in_place=True)
    click.echo(f"{spec.name} {spec.version}, {spec.precision}: unchanged\ndigest {spec.digest}")
