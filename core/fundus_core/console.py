"""What the four commands share at the terminal. The only module of core that knows click and rich."""

import errno
import functools
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fundus_core.errors import FundusError, UsageError

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

# Results go to stdout by click.echo, everything else here: `fundus-client score ... > summary` stays clean.
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


class FundusGroup(click.Group):
    """A click group that turns what is no bug into one sentence on stderr and an exit code.

    A `FundusError` has its own code. Of the system's errors one that names a path is taken for a wrong
    argument, such as a folder that cannot be written.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command; end the process with the error's own exit code."""
        try:
            return super().invoke(ctx)
        except FundusError as error:
            problem = error
        except OSError as error:
            if error.errno in (None, errno.EPIPE):  # a bug; or who read stdout has gone, which click knows
                raise
            problem = _explained(error)
        click.echo(f"Error: {problem}", err=True)
        sys.exit(problem.exit_code)


def _explained(error: OSError) -> FundusError:
    if error.filename is None:
        return FundusError(f"{error.strerror}. Mend that and run the command again.")
    hint = "Mend that or give another path, and run the command again."
    return UsageError(f"'{error.filename}': {error.strerror}. {hint}")


def tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that connects to a server the options of TLS; it gets them as `tls: Tls | None`."""

    @click.option(
        "--tls-ca", type=FILE, help="PEM of the authority that a server is trusted by: turns TLS on."
    )
    @click.option("--tls-cert", type=FILE, help="PEM of this client's certificate, if the server wants one.")
    @click.option("--tls-key", type=FILE, help="PEM of the private key to --tls-cert.")
    @functools.wraps(command)
    def with_tls(
        *args: Any, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None, **kwargs: Any
    ) -> Any:
        from fundus_core.tls import Tls, check_pair  # grpc takes 0.1 s, and most commands connect to nothing

        check_pair(tls_cert, tls_key)
        if tls_cert and not tls_ca:
            raise UsageError("--tls-cert needs --tls-ca: the authority that the server is trusted by.")
        return command(*args, tls=Tls(tls_ca, tls_cert, tls_key) if tls_ca else None, **kwargs)

    return with_tls


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


class _Saying(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def say_warnings(package: str) -> None:
    """Tell the user what a package of ours logs as a warning."""
    logger = logging.getLogger(package)
    logger.handlers = [_Saying()]
    logger.propagate = False


def quiet_libraries() -> None:
    """Keep chatty libraries from writing what a user can do nothing about."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|lightning)\b")
    for name in ("PIL", "torch.onnx", "onnxscript", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
