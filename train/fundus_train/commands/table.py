"""`fundus-train table`: the report's table of experiments."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from fundus_core.console import FOLDER, say
from fundus_train.changes import changes_against
from fundus_train.experiments import FORMATS, NO_CHANGES, Row, csv_text, find_runs, table_rows, write_rows

EXAMPLE = """\b
Examples:
  fundus-train table runs --output experiments.md
  fundus-train table runs/unseen --against runs/unseen/base"""


@click.command(epilog=EXAMPLE)
@click.argument("folders", metavar="RUN...", nargs=-1, required=True, type=FOLDER)
@click.option(
    "--against", type=FOLDER, help="A run of `unseen`: also show what each of the others changes of its AUCs."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help=f"Also write it to a file: {' or '.join(FORMATS)}.",
)
def table(folders: tuple[Path, ...], against: Path | None, output: Path | None) -> None:
    """Compare all runs in and below the folders RUN: one row each, with its conditions and its AUCs.

    On a terminal, what is the same in every run stands below the table; elsewhere it prints the whole table
    as CSV. A round of pseudo-labels is a row of its own. With several labels, an AUC is their mean without an
    interval; that of a left-out source is by the first label. A change of --against is paired on the same
    images, with DeLong's 95 % interval, which allows for several images of one patient.
    """
    runs = find_runs(folders)
    rows = table_rows(runs, changes_against(against, runs) if against else NO_CHANGES)
    if output:
        write_rows(output, rows)
    console = Console(markup=False, highlight=False)
    if console.is_terminal:
        _show(console, rows)
    else:
        click.echo(csv_text(rows), nl=False)
    for run in runs:
        if not run.summary:
            say(f"Not finished: {run.folder}. Run the same command again; it resumes.")


def _show(console: Console, rows: Sequence[Row]) -> None:
    same = {name: cell for name, cell in rows[0].items() if all(row[name] == cell for row in rows)}
    keep = [name for name in rows[0] if name not in same or name == "exp_num" or name.startswith("AUC")]
    shown = Table(box=None, pad_edge=False)
    for name in keep:
        shown.add_column(name)
    for row in rows:
        shown.add_row(*(row[name] for name in keep))
    console.print(shown)
    said = ", ".join(f"{name} {cell}" for name, cell in same.items() if cell and name not in keep)
    console.print(f"In every run: {said}" if said else "")
