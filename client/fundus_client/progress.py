"""What a user sees while a run goes on: how many, how fast, how long still, and how many failed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from fundus_client.journal import Found
from fundus_core.console import stderr
from fundus_core.rows import ScoreRow


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


@contextmanager
def scoring_progress(found: Found, quiet: bool) -> Iterator[Callable[[ScoreRow], None]]:
    """Give a function that takes each new row; silent where stderr is no terminal."""
    failures = TextColumn("{task.fields[failed]} failed")
    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        failures,
    )
    with Progress(
        *columns, console=stderr, disable=quiet or not stderr.is_terminal, transient=True
    ) as progress:
        task = progress.add_task("", total=found.n_files, completed=found.n_known, failed=0)

        def tick(row: ScoreRow) -> None:
            failed = progress.tasks[0].fields["failed"] + (row.status == "failed")
            progress.update(task, advance=1, failed=failed)

        yield tick
