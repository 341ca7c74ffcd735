"""Several folds at once, each in a process of its own that runs the same command with `--only ROUND FOLD`.

On GPUs each process sees its own ones; where there are fewer GPUs than folds at once, folds share them. The
CPU cores are divided among the processes.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from fundus_core.errors import FundusError

LOOK_EVERY_S = 0.2
PATIENCE_S = 10.0
VISIBLE = "CUDA_VISIBLE_DEVICES"


class FoldError(FundusError):
    """A fold failed in its process; `exit_code` is that process's."""

    def __init__(self, fold: int, exit_code: int, said: str) -> None:
        errors = [line for line in said.splitlines() if line.startswith("Error: ")]
        last = errors[-1].removeprefix("Error: ") if errors else _unexpected(exit_code, said)
        super().__init__(f"Fold {fold}: {last}")
        self.exit_code = exit_code if errors else 1


def _unexpected(exit_code: int, said: str) -> str:
    last = (said.strip().splitlines() or ["it said nothing"])[-1]
    return f"its process ended with code {exit_code} ({last}). Run the same command again; it resumes."


@dataclass(frozen=True)
class Workers:
    """How folds are trained at once.

    Args:
        command: the command line that trains a fold when `--only ROUND FOLD` is appended.
        count: how many processes at once.
        devices: how many devices each has.
        gpus: the ids of the GPUs that there are; none: the CPU.
        lock: a descriptor that each process keeps open, so that the run stays claimed while one lives.
    """

    command: tuple[str, ...]
    count: int
    devices: int
    gpus: tuple[str, ...]
    lock: int

    def train(self, number: int, folds: Sequence[int], look: Callable[[], None]) -> None:
        """Train `folds` of round `number`; call `look` again and again meanwhile.

        Raises:
            FoldError: one failed, after the others have ended.
        """
        waiting, running, errors = list(folds), dict[int, _Process](), []
        n_slots = min(self.count, len(folds))
        try:
            while waiting or running:
                free = [slot for slot in range(n_slots) if slot not in running]
                for slot in free[: len(waiting)]:
                    running[slot] = self._start(number, waiting.pop(0), slot, n_slots)
                time.sleep(LOOK_EVERY_S)
                look()
                ended = {slot: each for slot, each in running.items() if each.popen.poll() is not None}
                errors += [each.error() for each in ended.values() if each.popen.returncode]
                running = {slot: each for slot, each in running.items() if slot not in ended}
        finally:
            _end(list(running.values()))
        if errors:
            raise errors[0]

    def _start(self, number: int, fold: int, slot: int, n_slots: int) -> "_Process":
        said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  it outlives this function
        environment = dict(os.environ) | {"PYTHONSAFEPATH": "1"}
        if self.gpus:
            own = (self.gpus[(slot * self.devices + i) % len(self.gpus)] for i in range(self.devices))
            environment[VISIBLE] = ",".join(own)
        with _share_of_cores(slot, n_slots):
            popen = subprocess.Popen(
                [*self.command, "--only", str(number), str(fold)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=environment,
                pass_fds=[self.lock],
                start_new_session=True,  # so that its own processes end with it
            )
        return _Process(fold, popen, said)


def visible_gpus(count: int) -> tuple[str, ...]:
    """Return the ids of the `count` GPUs that this process sees."""
    named = os.environ.get(VISIBLE)
    return tuple(named.split(",")[:count]) if named else tuple(map(str, range(count)))


@dataclass(frozen=True)
class _Process:
    fold: int
    popen: subprocess.Popen[bytes]
    said: IO[str]

    def error(self) -> FoldError:
        self.said.seek(0)
        return FoldError(self.fold, self.popen.returncode, self.said.read())


@contextmanager
def _share_of_cores(slot: int, count: int) -> Iterator[None]:
    """Start processes on this slot's cores, meanwhile; PyTorch takes a thread for each."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[slot::count] or {cores[slot % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _end(processes: Sequence[_Process]) -> None:
    """End what still runs, with everything that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.popen.pid, number)
        deadline = time.monotonic() + PATIENCE_S
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.popen.wait(max(0.1, deadline - time.monotonic()))
