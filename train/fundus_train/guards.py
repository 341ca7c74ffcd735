"""What can end a run early: a signal, a full disk, the same run started twice. Each becomes a sentence."""

import errno
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fundus_core.console import say
from fundus_core.errors import FundusError, RecipeError, UsageError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
RESUMES = "run the same command again; it resumes."


@contextmanager
def resumable() -> Iterator[None]:
    """End the process with one sentence, and exit code 130 or 143, when SIGINT or SIGTERM stops it."""
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt as stop:
        if not launched_rank():
            say(f"Stopped. Every finished epoch is kept: {RESUMES}")
        sys.exit(128 + (stop.args[0] if stop.args else signal.SIGINT))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


@contextmanager
def full_disk(folder: Path, needed_bytes: int = 0, what: str = "") -> Iterator[None]:
    """Turn "no space left" while writing into `folder` into a sentence.

    Raises:
        FundusError: the disk is full, or the user's share of it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        need = f" {what} needs {_megabytes(needed_bytes)}." if what else ""
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        places = {path: shutil.disk_usage(path).free for path in (there, Path(tempfile.gettempdir()))}
        free = " and ".join(f"{_megabytes(size)} in '{path}'" for path, size in places.items())
        raise FundusError(
            f"The disk is full ({error.strerror}).{need} Free: {free}. Make room, then {RESUMES}"
        ) from None


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.0f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:,.0f} kB"


@contextmanager
def claimed(path: Path, identity: str) -> Iterator[int]:
    """Write `identity` into the file `path` and hold its lock; give its descriptor, for children to inherit.

    The system frees the lock when the last process that has the descriptor ends, however it ends.

    Raises:
        RecipeError: the file holds another identity, and that run has begun.
        UsageError: another process holds the lock, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno in FULL:
            raise
        hint = "Choose another --output."
        raise UsageError(f"'{path.parent}' cannot be written ({error.strerror}). {hint}") from None
    try:
        _lock(descriptor, path.parent)
        if (there := path.read_text()) != identity:
            if there and begun(path.parent):
                hint = "Choose another --output."
                raise RecipeError(_holds_another(path.parent) + hint)
            path.write_text(identity)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def joined(path: Path, identity: str) -> Iterator[None]:
    """Work for the process that has claimed `path`.

    Raises:
        RecipeError: the file holds another identity, since the recipe or a table was edited meanwhile.
    """
    if path.read_text() != identity:
        raise RecipeError(_holds_another(path.parent) + "Restore what was changed since it began.")
    yield


def _holds_another(run: Path) -> str:
    return f"'{run}' holds a run of another recipe, labels table or weights. "


def begun(run: Path) -> bool:
    """Whether an epoch of some network has been trained; until then a run folder is anybody's."""
    return leaves_out(run) or any(run.glob("fold_*"))


def leaves_out(run: Path) -> bool:
    """Whether it is a run of `fundus-train unseen` that has begun: networks named by source and seed."""
    return any(run.glob("*-seed*"))


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        hint = "Wait until it has ended, or choose another --output."
        raise UsageError(f"Another process is training in '{folder}'. {hint}") from None
    except OSError:  # a file system without locks
        return


def launched_rank() -> bool:
    """Whether this process is one that Fabric launched beside the first, to share its batches."""
    return os.environ.get("LOCAL_RANK", "0") != "0"
