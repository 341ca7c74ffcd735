"""The batch client by itself: how fast, in how much memory, how close to a saturated server, for how long.

    python benchmarks/client.py [stub] [memory] [load] [soak] [--repeats 3] [--seconds 600]

- stub: `fundus-client score` on files of 100 kB that a service without a model answers, in a process of its
  own on the same cores; beside it, in turn, what a part costs: reading and hashing the files, and sending as
  many bytes from memory with nothing around it, and next to none (what shared memory could gain at most);
- memory: the client's largest memory with 1,000 and with 100,000 small files, in folders of 1,000 and all in
  one, answered by the same service;
- load: the command on files against requests that keep the same embedded server busy from memory, in turn;
- soak: phantoms through the embedded server for `--seconds`, with the memory of client and server over time.

Printed, and written part by part with the machine's details to benchmarks/results/client.json.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from machine import RESULTS, command_line, write_results

from fundus_client.batch import READERS, _read
from fundus_client.embedded import embedded_server
from fundus_client.scorer import connect
from fundus_client.servers import reference_repository
from fundus_core.files import find_images, run_json_path
from fundus_core.phantoms import write_samples

PROGRAM = Path(sys.executable).with_name("fundus-client")
FILE_BYTES, N_STUB_FILES = 100_000, 3000
SMALL = ((1, 1000), (100, 1000), (1, 100_000))  # folders, and files in each
N_LOAD = 96
IN_FLIGHT = 64
GOALS = {"stub_images_per_s": 5000, "rss_ratio": 1.1, "rss_mb": 300, "load_ratio": 0.95}

Row = Callable[[], float]  # measures once: images/s


def main() -> None:
    """Measure the chosen parts, print and write each."""
    parser = command_line(__doc__)
    parts: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "stub": stub,
        "memory": memory,
        "load": load,
        "soak": soak,
    }
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=600)
    arguments = parser.parse_args()
    for name in arguments.parts or parts:
        found = {"load_before": os.getloadavg()[0], **parts[name](arguments)}
        print(name, json.dumps(found, indent=2))
        write(name, found)


def stub(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return images/s of the client and of its parts, on files of 100 kB without a model behind them."""
    with tempfile.TemporaryDirectory() as name, stub_service() as address:
        folder = Path(name)
        write_files(folder / "images", N_STUB_FILES, FILE_BYTES)
        rows = {
            "fundus-client score": lambda: command(folder / "images", address)["images_per_s"],
            "reading and hashing": lambda: reading(folder / "images"),
            "sending 100 kB from memory": lambda: asyncio.run(sending(address, [bytes(FILE_BYTES)], 3000)),
            "sending 100 bytes from memory": lambda: asyncio.run(sending(address, [bytes(100)], 3000)),
        }
        return {"images_per_s": in_turn(rows, arguments.repeats), "goal": GOALS["stub_images_per_s"]}


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the client's largest memory with few and with many files, in folders and in one, in MB."""
    with tempfile.TemporaryDirectory() as name, stub_service() as address:
        largest = []
        for n_folders, n_files in SMALL:
            place = Path(name) / f"{n_folders} of {n_files}"
            place.mkdir()
            for number in range(n_folders):
                write_files(place / f"{number:03}", n_files, 200)
            largest.append(command(place, address)["max_rss_mb"])
    few, many, flat = largest
    found = {"1,000 files": few, "100,000 files, 1,000 a folder": many, "100,000 files in one folder": flat}
    ratios = {"1,000 a folder": many / few, "one folder": flat / few}
    return {"max_rss_mb": found, "ratios": ratios, "goals": [GOALS["rss_ratio"], GOALS["rss_mb"]]}


def load(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the client's images/s from files beside those of requests from memory, on one server."""
    with tempfile.TemporaryDirectory() as name, embedded_server(reference_repository()) as server:
        folder, address = Path(name), server.grpc_address
        list(write_samples(folder, N_LOAD))
        images = [ref.path.read_bytes() for ref in find_images([folder])]
        rows = {
            "fundus-client score": lambda: command(folder, address)["images_per_s"],
            "requests from memory": lambda: asyncio.run(sending(address, images, N_LOAD)),
        }
        speeds = in_turn(rows, arguments.repeats)
    ours, saturated = speeds.values()
    pairs = [one / other for one, other in zip(ours, saturated, strict=True)]
    return {"images_per_s": speeds, "median_ratio": statistics.median(pairs), "goal": GOALS["load_ratio"]}


def soak(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the memory of client and server while they work for a long time, every 10 s."""
    with tempfile.TemporaryDirectory() as name, embedded_server(reference_repository()) as server:
        folder = Path(name)
        list(write_samples(folder / "phantoms", 64))
        originals = [ref.path for ref in find_images([folder / "phantoms"])]
        copies = folder / "copies"
        copies.mkdir()
        for number in range(25 * arguments.seconds):  # more than it can do: the run is ended
            original = originals[number % len(originals)]
            (copies / f"{number:06}{original.suffix}").write_bytes(
                original.read_bytes() + number.to_bytes(4, "big")
            )
        line = [PROGRAM, "score", copies, "--url", server.grpc_address, "--output", folder / "scores.csv"]
        client = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        curve, started_s = [], time.monotonic()
        while client.poll() is None and (passed_s := time.monotonic() - started_s) < arguments.seconds:
            of_server = sum(map(rss_mb, family(server.supervisor.pid)))
            curve.append((round(passed_s), rss_mb(client.pid), of_server))
            time.sleep(10)
        client.terminate()
        client.wait()
        again = command(folder / "phantoms", server.grpc_address)
    return {"seconds_client_mb_server_mb": curve, "images_per_s_after": again["images_per_s"]}


@contextmanager
def stub_service() -> Iterator[str]:
    """Give the address of the service without a model."""
    line = [sys.executable, Path(__file__).with_name("stub_service.py")]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
        yield cast(IO[str], service.stdout).readline().strip()
        cast(IO[str], service.stdin).close()


def write_files(folder: Path, count: int, size: int) -> None:
    """Write BMP files of noise, each another: their pixels are never looked at."""
    folder.mkdir()
    for number in range(count):
        header = b"BM" + size.to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
        header += (40).to_bytes(4, "little") + (1).to_bytes(4, "little") * 2
        noise = os.urandom(size - len(header))
        (folder / f"{number:06}.bmp").write_bytes(header + noise)


def command(folder: Path, address: str) -> dict[str, float]:
    """Return images/s as run.json tells, and the largest memory, of one run of the command."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "scores.csv"
        line = [PROGRAM, "score", folder, "--url", address, "--output", output, "--quiet"]
        client = subprocess.Popen(line)
        usage = os.wait4(client.pid, 0)[2]
        run = json.loads(run_json_path(output).read_text())
        if run["counts"]["n_failed"]:
            raise SystemExit(f"files failed: {run['counts']}")
        return {"images_per_s": run["images_per_s"], "max_rss_mb": usage.ru_maxrss / 1024}


def reading(folder: Path) -> float:
    """Return files/s of what the client does to a file before it is sent."""
    refs, started_s = list(find_images([folder])), time.monotonic()
    with ThreadPoolExecutor(READERS) as readers:
        list(readers.map(_read, refs))
    return len(refs) / (time.monotonic() - started_s)


async def sending(address: str, images: list[bytes], count: int) -> float:
    """Return images/s of bare requests that are always under way."""
    window = asyncio.Semaphore(IN_FLIGHT)
    async with connect(address, ready_timeout_s=60, timeout_s=600) as scorer:

        async def one(number: int) -> None:
            async with window:
                await scorer.score(images[number % len(images)], f"{number:064x}")

        started_s = time.monotonic()
        await asyncio.gather(*map(one, range(count)))
        return count / (time.monotonic() - started_s)


def in_turn(rows: dict[str, Row], repeats: int) -> dict[str, list[float]]:
    """Return the figures of each repeat; every row is tried once before that."""
    speeds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats + 1):
        for name, row in rows.items():
            speeds[name].append(row())
    return {name: values[1:] for name, values in speeds.items()}


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def rss_mb(pid: int) -> float:
    """Return the memory that a process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


def write(part: str, found: dict[str, Any]) -> None:
    """Write one part, and leave the others as they are."""
    path = RESULTS / "client.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    content[part] = {"command": f"benchmarks/client.py {part}", **found}
    write_results("client", content, python=platform.python_version())


if __name__ == "__main__":
    main()
