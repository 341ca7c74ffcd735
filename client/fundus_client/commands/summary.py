"""How many files were scored, and why others were not: lines for programs, a table on a terminal."""

from collections.abc import Iterator

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fundus_client.run import RunSummary

_LOOK = "scored, but look at the column `ungradable`"


def print_counts(summary: RunSummary) -> None:
    """Print the counts of a run to stdout."""
    terminal = Console(highlight=False)
    if terminal.is_terminal:
        terminal.print(_table(summary))
    else:
        click.echo("\n".join(_lines(summary)))


def _lines(summary: RunSummary) -> Iterator[str]:
    yield f"scored {summary.n_scored} of {summary.n_files} files in {_speed(summary)}"
    for reason, count in sorted(summary.reasons.items()):
        yield f"failed {count}: {reason}"
    if summary.n_ungradable:
        yield f"ungradable {summary.n_ungradable}: {_LOOK}"


def _table(summary: RunSummary) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_row(str(summary.n_files), "files", _speed(summary))
    table.add_row(str(summary.n_scored), Text("scored", style="green"))
    for reason, count in sorted(summary.reasons.items()):
        table.add_row(str(count), Text("failed", style="bold red"), reason)
    if summary.n_ungradable:
        table.add_row(str(summary.n_ungradable), Text("ungradable", style="yellow"), _LOOK)
    return table


def _speed(summary: RunSummary) -> str:
    return f"{summary.wall_s:.1f} s, {summary.images_per_s:.1f} images/s"
