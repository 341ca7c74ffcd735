"""What `fundus-client score --engine ray` adds to the scoring, and a plan for many images.

    python benchmarks/scale.py [--repeats 3]     measures, writes benchmarks/results/scale.json, and plans
    python benchmarks/scale.py --plan [--images 10000000] [--images-per-s 18.4] [--machines 1 10 100]

Measured, all of it on this machine:
- feed: images/s that one actor gets answered by a service without a model, in small and in larger blocks,
  from the first block that came back to the last, and from them what a block costs; beside it, in turn, the
  local engine; and the seconds until that first block;
- driver: images/s that go into the journal, to Ray, from there into the journal and into the table; the
  driver's memory, and the bytes of each row on the disk.
The plan takes the images/s of a machine from benchmarks/results/speed.json where none are given.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from client import FILE_BYTES, IN_FLIGHT, N_STUB_FILES, command, in_turn, rss_mb, stub_service, write_files
from machine import RESULTS, command_line, write_results
from stub_service import SPEC

from fundus_client import ray_engine
from fundus_client.journal import Journal, open_journal
from fundus_client.member import Patience
from fundus_client.ray_engine import LARGEST, block_size
from fundus_client.run import End, Job, write_table
from fundus_client.servers import Servers
from fundus_core.files import ImageRef, find_images, stamp_of
from fundus_core.quality import MEASURES, Quality
from fundus_core.rows import ScoreRow

N_ROWS = 300_000
ARCHIVE = Path("/archive/photographs")  # there is none
SMALL, LARGE = "one actor, blocks of 16", "one actor, blocks of 256"
FILES = ("journal", "table.csv", "table.parquet")


def main() -> None:
    """Measure, write, plan."""
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plan", action="store_true", help="measure nothing")
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--images-per-s", type=float, help="of one machine with its server")
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 10, 100])
    arguments = parser.parse_args()
    if not arguments.plan:
        measure(arguments.repeats)
    plan(arguments)


def measure(repeats: int) -> None:
    """Measure all, print and write it."""
    found: dict[str, Any] = {"command": f"benchmarks/scale.py --repeats {repeats}"}
    found["load_before"] = os.getloadavg()[0]
    found |= {**feed(repeats), "driver": driver()}
    versions = {"python": platform.python_version(), "ray": version("ray")}
    write_results("scale", found, **versions)
    print(json.dumps(found, indent=2))


def feed(repeats: int) -> dict[str, Any]:
    """Return the speeds of both engines before a service without a model, and Ray's starts."""
    starts: list[float] = []
    with tempfile.TemporaryDirectory() as name, stub_service() as address:
        folder = Path(name) / "images"
        write_files(folder, N_STUB_FILES, FILE_BYTES)
        rows = {
            "local engine": lambda: command(folder, address)["images_per_s"],
            SMALL: lambda: one_actor(folder, address, 16, starts),
            LARGE: lambda: one_actor(folder, address, 256, starts),
        }
        speeds = in_turn(rows, repeats)
    small, large = (statistics.median(speeds[name]) for name in (SMALL, LARGE))
    block_s = (1 / small - 1 / large) / (1 / 16 - 1 / 256)
    return {"images_per_s": speeds, "block_s": block_s, "first_block_s": starts[2:]}


def one_actor(folder: Path, address: str, size: int, starts: list[float]) -> float:
    """Return the images/s of a cluster of this machine, once its first block is back."""
    began_s, came_s = time.monotonic(), list[float]()
    ray_engine.block_size = lambda n_images: size
    servers = Servers((address,), None, None, Patience(in_flight=IN_FLIGHT))
    with tempfile.TemporaryDirectory() as name, open_journal(Path(name) / "journal", fresh=False) as journal:
        source = list(find_images([folder]))
        journal.register(source)
        job = Job(source, journal, journal.belongs_to, lambda row: came_s.append(time.monotonic()))
        ray_engine.score_on_ray(job, servers, None)
    starts.append(came_s[0] - began_s)
    return (len(came_s) - size) / (came_s[-1] - came_s[size - 1])


def driver() -> dict[str, float]:
    """Return the images/s of each step on the driver, its memory, and the bytes of a row in its files."""
    names = (f"{number // 1000:05}/{number:08}.jpg" for number in range(N_ROWS))
    refs = [Noted(name, ARCHIVE / name) for name in names]
    with tempfile.TemporaryDirectory() as name, open_journal(Path(name) / "journal", fresh=False) as journal:
        journal.belongs_to(SPEC)
        job = Job(refs, journal, journal.belongs_to, lambda row: None)
        end = End(SPEC, None)
        found_s = seconds(journal.register, refs)
        given_s, grown_mb = give(job)
        steps = {
            "found": found_s,
            "given to Ray": given_s,
            "taken": seconds(take, journal, refs),
            "written as csv": seconds(write_table, journal, Path(name) / "table.csv", end),
            "written as parquet": seconds(write_table, journal, Path(name) / "table.parquet", end),
        }
        sizes = {path.name: path.stat().st_size / N_ROWS for path in Path(name).iterdir()}
    speeds = {f"images/s {step}": N_ROWS / spent_s for step, spent_s in steps.items()}
    sizes["journal"] += sizes.pop("journal-wal")
    speeds["bytes/image of memory"] = grown_mb * 2**20 / N_ROWS
    return speeds | {f"bytes/row {name}": size for name, size in sizes.items()}


@dataclass(frozen=True, slots=True)
class Noted(ImageRef):
    """A file that nobody looks at."""

    def stamp(self) -> bytes:
        """Return what stands for the file's state."""
        return stamp_of(self.image_id)


def give(job: Job) -> tuple[float, float]:
    """Hand the list to a Ray of this machine; return the seconds, and by how many MB this process grew."""
    ray_engine.block_size = lambda n_images: LARGEST
    ray_engine._start(None)
    before_mb = rss_mb(os.getpid())
    spent_s = seconds(ray_engine._blocks, job)
    grown_mb = rss_mb(os.getpid()) - before_mb
    ray.shutdown()
    return spent_s, grown_mb


def take(journal: Journal, refs: list[Noted]) -> None:
    """Put rows into the journal as the driver does, a block at a time."""
    for start in range(0, len(refs), LARGEST):
        for number, ref in enumerate(refs[start : start + LARGEST], start):
            sha256 = f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4  # in no order, as real ones
            p = (number % 9973 / 9973,)
            measures = Quality(*[0.1234567 + number % 97 / 1000] * len(MEASURES))  # digits as real ones have
            row = ScoreRow(ref.image_id, sha256, "scored", "", p, (p,) * len(SPEC.folds), measures)
            journal.record(ref.image_id, ref.stamp(), row)
        journal.commit()


def seconds(function: Callable[..., Any], *arguments: object) -> float:
    """Return how long a call takes."""
    began_s = time.monotonic()
    function(*arguments)
    return time.monotonic() - began_s


def plan(arguments: argparse.Namespace) -> None:
    """Print the formulas of docs/scale.md with the measured figures in them."""
    scale = json.loads((RESULTS / "scale.json").read_text())
    speeds = json.loads((RESULTS / "speed.json").read_text())["ensembles"]["reference"]["images_per_s"]
    n, driver = arguments.images, scale["driver"]
    size = block_size(n)
    alone = arguments.images_per_s or statistics.median(speeds["fundus-client score, fp32"]["1900 px"])
    speed = 1 / (1 / alone + scale["block_s"] / size)
    before_s = n / driver["images/s found"] + n / driver["images/s given to Ray"]
    after_s = n / driver["images/s written as csv"]
    print(f"{n} images, {-(-n // size)} blocks of {size}")
    print(f"a machine: {alone:.2f} images/s, in blocks {speed:.2f}; machine-hours: {n / speed / 3600:.0f}")
    print(f"the driver before and after: {(before_s + after_s) / 60:.0f} minutes")
    print(f"machines that the driver can take rows from: {driver['images/s taken'] / speed:.0f}")
    sizes = ", ".join(f"{name} {n * driver[f'bytes/row {name}'] / 1e9:.1f}" for name in FILES)
    print(f"GB: {sizes}, memory of the driver {n * driver['bytes/image of memory'] / 1e9:.1f}")
    start_s = statistics.median(scale["first_block_s"])
    for machines in arguments.machines:
        wall_s = start_s + before_s + n / (machines * speed) + after_s
        print(f"{machines} machines: {wall_s / 3600:.1f} hours")


if __name__ == "__main__":
    main()
