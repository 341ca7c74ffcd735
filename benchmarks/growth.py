"""How fast `fundus-client score` is with more of everything, drawn as figures of the documents.

    python benchmarks/growth.py [images] [size] [ensemble] [cores] [servers] [--repeats 3]
    python benchmarks/growth.py --draw      measures nothing: draws and prints what was measured before

- images: 1 to 1,000 photographs with the reference ensemble, the whole command with the start of its server;
  and 1 to 100,000 small files with a service without a model, which leaves what the client does;
- size: photographs of 500 to 5,000 px;
- ensemble: folds x views, of the reference's network with random weights;
- cores: client and server on 1, 2, 4 ... and all cores of this machine;
- servers: the same cores for one server, and shared out among several (`--url a --url b`).

Photographs are phantoms, their JPEG files all different. The rows of a part are measured in turn, `--repeats`
times; unless a part says otherwise, servers are warm. Each part is written to benchmarks/results/growth.json
as soon as it is there, and drawn to docs/figures/growth-PART.svg: medians of each repeat's ratios, with the
least and the largest.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from client import sending, stub_service, write_files
from growth_ensembles import random_ensemble
from growth_figures import FIGURES, Speeds, draw, lines
from machine import CORES, RESULTS, command_line, write_results

from fundus_client.embedded import embedded_server
from fundus_client.servers import reference_repository
from fundus_core import phantoms
from fundus_core.console import quiet_libraries, say
from fundus_core.files import run_json_path

N_IMAGES, N_SMALL = (1, 10, 100, 1000), (1, 10, 100, 1000, 10_000, 100_000)
SMALL_BYTES = 200
SIDES_PX, SIDE_PX = (500, 1000, 2000, 3500, 5000), 1000
N_OF_SIZE = 64
FOLDS_VIEWS = ((1, 1), (1, 4), (2, 4), (4, 1), (4, 4))
N_OF_ENSEMBLE = 128  # photographs for each core: the smallest ensembles answer them in seconds
N_A_CORE = 24  # photographs for each core in each row of the other parts
N_DRAWN = 4  # phantoms; other files repeat them and end in a number
WARM_UP = 4  # photographs that a server answers before it is measured

Row = Callable[[], float]  # measures once: images/s
Rows = dict[tuple[str, str], Row]  # by the line that it belongs to, and its place there


def main() -> None:
    """Measure the chosen parts, write and draw each."""
    parts: dict[str, Callable[[Path], Rows]] = {
        "images": images,
        "size": size,
        "ensemble": ensemble,
        "cores": cores,
        "servers": servers,
    }
    parser = command_line(__doc__)
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    quiet_libraries()
    for name in arguments.parts or (measured() if arguments.draw else parts):
        if not arguments.draw:
            measure(name, parts[name], arguments)
        speeds: Speeds = measured()[name]["images_per_s"]
        draw(name, speeds)
        print(*lines(name, speeds), sep="\n")


def measure(name: str, part: Callable[[Path], Rows], arguments: argparse.Namespace) -> None:
    """Measure one part in a folder of its own, and write it beside the others."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        speeds = in_turn(name, part(Path(folder)), arguments.repeats)
    command = f"benchmarks/growth.py {name} --repeats {arguments.repeats}"
    write_results(
        "growth", {**measured(), name: {"command": command, "load_before": load, "images_per_s": speeds}}
    )


def measured() -> dict[str, dict[str, Speeds]]:
    """Return what was measured before."""
    path = RESULTS / "growth.json"
    found: dict[str, dict[str, Speeds]] = json.loads(path.read_text()) if path.exists() else {}
    return {name: found[name] for name in FIGURES if name in found}


def in_turn(name: str, rows: Rows, repeats: int) -> Speeds:
    """Return the images/s of every repeat of each row."""
    speeds: Speeds = {line: {} for line, _ in rows}
    for repeat in range(repeats):
        for (line, place), row in rows.items():
            say(f"{name}: {line}, {place}, repeat {repeat + 1} of {repeats}")
            speeds[line].setdefault(place, []).append(row())
    return speeds


def images(folder: Path) -> Rows:
    """Return the rows of more and more images: the whole command, from its start to its end."""
    rows: Rows = {}
    for n in N_IMAGES:
        rows["reference ensemble", str(n)] = partial(alone, photographs(folder / f"{n} photographs", n))
    for n in N_SMALL:
        small = folder / f"{n} small"
        write_files(small, n, SMALL_BYTES)
        rows["no model", str(n)] = partial(without_model, small)
    return rows


def size(folder: Path) -> Rows:
    """Return the rows of larger and larger photographs."""
    made = {side_px: photographs(folder / str(side_px), N_OF_SIZE, side_px) for side_px in SIDES_PX}
    return {("reference ensemble", str(side_px)): partial(served, made[side_px]) for side_px in SIDES_PX}


def ensemble(folder: Path) -> Rows:
    """Return the rows of more folds and views."""
    rows: Rows = {}
    pictures = photographs(folder / "photographs", N_OF_ENSEMBLE * CORES)
    for n_folds, n_views in FOLDS_VIEWS:
        made = random_ensemble(reference_repository(), folder / f"{n_folds}-{n_views}", n_folds, n_views)
        line = f"{n_views} view{'s' if n_views > 1 else ''}"
        rows[line, str(n_folds)] = partial(served, pictures, made)
    return rows


def cores(folder: Path) -> Rows:
    """Return the rows of more cores, with as many photographs for each."""
    rows: Rows = {}
    for number in sorted({2**power for power in range(CORES.bit_length())} | {CORES}):
        pictures = photographs(folder / str(number), N_A_CORE * number)
        rows["reference ensemble", str(number)] = partial(on_some, number, pictures)
    return rows


def servers(folder: Path) -> Rows:
    """Return the rows of the same cores for one server and for two."""
    pictures = photographs(folder / "photographs", N_A_CORE * CORES)
    numbers = [number for number in (1, 2) if number <= CORES]
    return {
        ("reference ensemble", str(number)): partial(served, pictures, n_servers=number) for number in numbers
    }


def photographs(folder: Path, count: int, side_px: int = SIDE_PX) -> Path:
    """Write `count` different JPEG files of square phantoms, and return their folder."""
    folder.mkdir()
    drawn = drawings(side_px)
    for number in range(count):
        content = drawn[number % len(drawn)] + number.to_bytes(4, "big")
        (folder / f"{number:06}.jpg").write_bytes(content)
    return folder


@cache
def drawings(side_px: int) -> tuple[bytes, ...]:
    """Return some phantoms as a camera of this size writes them."""
    camera = replace(phantoms.CAMERAS[0], width_px=side_px, height_px=side_px)
    plans = [replace(phantoms.plan(seed), camera=camera) for seed in range(N_DRAWN)]
    return tuple(phantoms.encode(phantoms.draw(each).pixels, camera) for each in plans)


def served(folder: Path, repository: Path | None = None, n_servers: int = 1) -> float:
    """Return the command's images/s at servers that share the cores and are warm."""
    places = all_cores()
    some = [path.read_bytes() for path in sorted(folder.iterdir())[:WARM_UP]]
    with ExitStack() as running:
        urls: list[str] = []
        for number in range(n_servers):
            with on_cores(places[number::n_servers]):
                server = embedded_server(repository or reference_repository())
                address = running.enter_context(server).grpc_address
            asyncio.run(sending(address, some, len(some)))
            urls += ["--url", address]
        return score(folder, *urls)[0]


def on_some(n_cores: int, folder: Path) -> float:
    """Return the command's images/s where it and its warm server have these cores alone."""
    with on_cores(all_cores()[:n_cores]):
        return served(folder)


def alone(folder: Path) -> float:
    """Return the images/s of the whole command that starts a server of its own."""
    return score(folder)[1]


def without_model(folder: Path) -> float:
    """Return the images/s of the whole command where no model answers."""
    with stub_service() as address:
        return score(folder, "--url", address)[1]


def score(folder: Path, *options: str) -> tuple[float, float]:
    """Return images/s as the command says, and from the start of its process to the end."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "scores.csv"
        program = Path(sys.executable).with_name("fundus-client")
        started_s = time.monotonic()
        subprocess.run([program, "score", folder, "--output", output, "--quiet", *options], check=True)
        wall_s = time.monotonic() - started_s
        run = json.loads(run_json_path(output).read_text())
    return run["images_per_s"], run["counts"]["n_scored"] / wall_s


def all_cores() -> Sequence[int]:
    """Return the numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


@contextmanager
def on_cores(numbers: Sequence[int]) -> Iterator[None]:
    """Start processes on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, numbers)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    main()
