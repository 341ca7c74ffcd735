"""What the four commands share at the terminal. The only module of core that knows click and rich."""

import logging
import sys
import warnings
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fundus_core.errors import FundusError

# Results go to stdout by click.echo, everything else here: `fundus-client score ... > summary` stays clean.
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


class FundusGroup(click.Group):
    """A click group that turns a `FundusError` into one sentence on stderr and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command; end the process with the error's own exit code."""
        try:
            return super().invoke(ctx)
        except FundusError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_code)


def progress_bar() -> Progress:
    """Return a progress bar on stderr that stays silent when stderr is not a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=stderr, disable=not stderr.is_terminal, transient=True)


def say(message: str) -> None:
    """Tell the user something on stderr, without interpreting brackets as markup."""
    stderr.print(message, markup=False)


def quiet_libraries() -> None:
    """Keep chatty libraries from writing what a user can do nothing about."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|lightning)\b")
    for name in ("PIL", "torch.onnx", "onnxscript", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
