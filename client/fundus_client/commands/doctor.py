"""`fundus-client doctor`: is everything there that a run needs?"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fundus_client.checkup.doctor import Case, Examination, examine
from fundus_client.checkup.finding import Finding, Level
from fundus_client.commands.options import PATH, TIMEOUT, URLS
from fundus_core.console import stderr, tls_options
from fundus_core.errors import ServerUnreachableError
from fundus_core.tls import Tls

STYLES: dict[Level, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}
EXAMPLES = """\b
Examples:
  fundus-client doctor
  fundus-client doctor --url a:8001 --url b:8001 --tls-ca ca.pem --repository model_repository

\b
Exit codes: 0 nothing or only warnings, 1 a problem, 2 usage, 4 no server reachable."""


@click.command(epilog=EXAMPLES)
@URLS
@click.option(
    "--repository",
    type=PATH,
    help="The bundle to serve; with --url the one that should be served. [default: the reference ensemble]",
)
@tls_options
@click.option("--output", default="scores.csv", type=PATH, help="Where the table would be written.")
@TIMEOUT
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    urls: tuple[str, ...],
    repository: Path | None,
    tls: Tls | None,
    output: Path,
    timeout: float,
    as_json: bool,
) -> None:
    """Check this computer, the bundle and the servers, and say what to do about what is wrong.

    Without --url it starts the embedded server once, as `score` does. Nothing is changed, and no photograph
    is read: the servers are asked for the score of a synthetic phantom.
    """
    with stderr.status("looking"):
        found = examine(Case(urls, repository, tls, output, timeout))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found.findings], indent=2))
    else:
        _print(found)
    if found.unreachable:
        sys.exit(ServerUnreachableError.exit_code)
    if found.count("problem"):
        sys.exit(1)


def _print(found: Examination) -> None:
    terminal = Console(highlight=False)
    if terminal.is_terminal:
        terminal.print(_table(found))
    else:
        click.echo("\n".join(map(_line, found.findings)))
    click.echo(f"problems: {found.count('problem')}, warnings: {found.count('warning')}")


def _line(finding: Finding) -> str:
    return f"{finding.level:8} {finding.what} {finding.next_step}".rstrip()


def _table(found: Examination) -> Table:
    table = Table.grid(padding=(0, 2))
    for finding in found.findings:
        next_step = Text(f"\n{finding.next_step}" if finding.next_step else "", style="bold")
        table.add_row(Text(finding.level, style=STYLES[finding.level]), Text(finding.what) + next_step)
    return table
