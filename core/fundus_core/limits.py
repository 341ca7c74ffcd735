"""How much of this computer the process may have: cores and memory, within its control groups.

`root` is where /proc and /sys lie. Where they tell nothing, nothing is limited.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")


def allowed_cores(root: Path = ROOT) -> float:
    """Return the time of how many cores the control groups allow; infinite where they set no limit."""
    quotas = [*_numbers(root, "cpu.max"), *_numbers(root, "cpu.cfs_quota_us", "cpu.cfs_period_us")]
    return min((quota_us / period_us for quota_us, period_us in quotas if quota_us > 0), default=math.inf)


def usable_cores(root: Path = ROOT) -> int:
    """Return how many threads have something to do: one for each core, no more than there is time for."""
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), allowed_cores(root))))


def free_memory_bytes(root: Path = ROOT) -> float:
    """Return how much memory is available, at most the limit of a control group; infinite where unknown."""
    limits = [*_numbers(root, "memory.max"), *_numbers(root, "memory.limit_in_bytes")]
    return min([*(limit for (limit,) in limits), _available_bytes(root)])


def _available_bytes(root: Path) -> float:
    with suppress(OSError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return math.inf


def _numbers(root: Path, *names: str) -> Iterator[list[int]]:
    """Yield the numbers in these files of each control group that has them; "max" is no number."""
    for folder in _groups(root):
        with suppress(OSError, ValueError):
            yield [int(word) for name in names for word in (folder / name).read_text().split()]


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups, of version 2 or 1, each up to the outermost."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            top = root / "sys/fs/cgroup" / controllers
            own = top / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))
