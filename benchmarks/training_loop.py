"""One epoch of `fundus-train fit`, against the same network on tensors in memory and a loop that decodes.

    python benchmarks/training_loop.py [--recipe reference.toml] [--images 96] [--passes 6] [--repeats 5]

All train the recipe's network with the same optimiser on the same photographs (phantoms, JPEG, 1900 px), in
turn, in one run; an epoch is `passes` times the images, or once where each is decoded. `fit` does all that
the recipe says. Tensors in memory are the limit: nothing is read, augmented, averaged or saved. The decoding
loop is what one writes with timm and PyTorch: OpenCV, flips, a DataLoader, without and with processes. The
memory of an epoch is that of a process of its own, with few and with many images in the cache. Printed:
images/s of each repeat, medians, ratios, memory; written with the machine's details to benchmarks/results/.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import cv2
import lightning as lit
import numpy as np
import timm
import torch
from machine import CORES, command_line, median_ratio, write_results
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fundus_core import phantoms
from fundus_core.preprocess import PreprocessSpec, preprocess
from fundus_core.tables import LabelTable
from fundus_train.allocator import keep_freed_memory
from fundus_train.cases import Cases, load_cases
from fundus_train.loop import Epoch, fit_fold
from fundus_train.network import build_network
from fundus_train.recipe import Network, Phantoms, Recipe, read_recipe

SIDE_PX = 1900
CACHED = (200, 2000)  # images, for the memory
REFERENCE = Path(__file__).parents[1] / "train" / "recipes" / "reference.toml"
OURS, IN_MEMORY = "fundus-train fit, an epoch", "tensors in memory"


def main() -> None:
    """Measure, print, write."""
    arguments = parse()
    recipe = recipe_of(arguments)
    if arguments.memory_of:
        print(json.dumps(memory_of(arguments.memory_of, recipe)))
        return
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        speeds = measure(arguments, recipe, Path(folder))
    memory = {count: in_own_process(count, arguments.recipe) for count in CACHED}
    report(arguments, speeds, memory)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__)
    parser.add_argument("--recipe", type=Path, default=REFERENCE)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-of", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe of all rows. Its first epoch warms up and isn't counted."""
    recipe = read_recipe(arguments.recipe)
    return replace(
        recipe,
        network=replace(recipe.network, pretrained=False),  # as fast, and nothing to download
        phantoms=Phantoms(),  # the photographs are some
        training=replace(recipe.training, epochs=arguments.repeats + 1),
    )


def measure(arguments: argparse.Namespace, recipe: Recipe, folder: Path) -> dict[str, list[float]]:
    """Return the images/s of each row's repeats. The other rows run between the epochs of ours."""
    labels = write_photographs(folder, arguments.images)
    cases = load_cases(recipe, labels, folder, folder / "cache", lambda done, total: None)
    part = np.tile(np.arange(arguments.images), arguments.passes)
    rows = other_rows(recipe, folder, labels, cases, part)
    speeds: dict[str, list[float]] = {name: [] for name in (OURS, *rows)}

    def after(epoch: Epoch) -> None:
        speeds[OURS].append(epoch.n_images / epoch.seconds)
        for name, row in rows.items():
            speeds[name].append(row())
        print(f"epoch {epoch.number}: " + ", ".join(f"{values[-1]:.1f}" for values in speeds.values()))

    fabric = lit.Fabric(accelerator="cpu", devices=1)
    fit_fold(fabric, build_network(recipe), recipe, cases, part, part[:0], 0, folder / "resume", after)
    return {name: values[1:] for name, values in speeds.items()}


def write_photographs(folder: Path, count: int) -> LabelTable:
    """Write phantoms as JPEG files of one realistic size; return their labels."""
    names, values = [], []
    for seed in range(count):
        phantom = phantoms.render(seed)
        pixels = cv2.resize(phantom.pixels, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC)
        names.append(f"{seed}.jpg")
        cv2.imwrite(str(folder / names[-1]), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        values.append([phantom.glaucoma])
    return LabelTable(tuple(names), ("glaucoma",), np.array(values, np.int8))


def other_rows(
    recipe: Recipe, folder: Path, labels: LabelTable, cases: Cases, part: np.ndarray[Any, Any]
) -> dict[str, Callable[[], float]]:
    """Return the rows to compare with; each call trains one epoch and returns images/s."""
    batch, spec = recipe.training.batch_size, recipe.preprocess
    chosen = part[: len(part) // batch * batch].reshape(-1, batch)
    tensor = torch.from_numpy
    stored = [(tensor(cases.pixels[rows]), tensor(cases.targets[rows])) for rows in chosen]
    files = Files([folder / image_id for image_id in labels.image_id], labels.values, spec)
    ours, plain = build_network(recipe), timm.create_model(recipe.network.architecture, num_classes=1)

    def decoding(processes: int) -> float:
        return train(plain, DataLoader(files, batch, shuffle=True, drop_last=True, num_workers=processes))

    return {
        IN_MEMORY: lambda: train(ours, stored),
        "decoding each epoch": lambda: decoding(0),
        f"decoding each epoch, {CORES} processes": lambda: decoding(CORES),
    }


@dataclass(frozen=True)
class Files(Dataset[tuple[Tensor, Tensor]]):
    """Photographs that are decoded whenever they are wanted, flipped at random and normalised (3, S, S)."""

    paths: list[Path]
    targets: np.ndarray[Any, Any]
    spec: PreprocessSpec

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        pixels = preprocess(cv2.imread(str(self.paths[item]))[..., ::-1], self.spec)
        axes = [axis for axis in (0, 1) if torch.rand(()) < 0.5]
        planes = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).flip([axis + 1 for axis in axes])
        return (planes / 255 - 0.5) / 0.5, torch.from_numpy(self.targets[item])


def train(network: nn.Module, batches: Iterable[Any]) -> float:
    """Train one epoch; return images/s."""
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4)
    started, n_images = time.perf_counter(), 0
    for pixels, targets in batches:
        loss = nn.functional.binary_cross_entropy_with_logits(network(pixels), targets.float())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        n_images += len(pixels)
    return n_images / (time.perf_counter() - started)


def in_own_process(count: int, recipe: Path) -> dict[str, float]:
    """Return `memory_of` as a new process measures it."""
    line = [sys.executable, __file__, "--memory-of", str(count), "--recipe", str(recipe)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory_of(count: int, recipe: Recipe) -> dict[str, float]:
    """Train a small network for an epoch on `count` cached images; return the peaks of this process's memory.

    "own_mb" is what it has allocated (RssAnon); "mapped_mb" counts the pages of the cache with it (VmHWM),
    which the kernel takes back whenever another needs them. `ru_maxrss` would be the parent's, if larger.
    """
    with tempfile.TemporaryDirectory() as folder, own_memory() as own:
        size_px = recipe.preprocess.size_px
        path, shape = Path(folder) / "pixels.npy", (count, size_px, size_px, 3)
        with path.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(count):
                file.write(os.urandom(size_px * size_px * 3))
        every, targets = np.arange(count), (np.arange(count) % 2).astype(np.int8)[:, None]
        ids, source = tuple(map(str, every)), ("",) * count
        cases = Cases(ids, np.load(path, mmap_mode="r"), every, targets, every, source, count, ())
        training = replace(recipe.training, epochs=1)
        recipe = replace(recipe, network=Network("test_efficientnet", pretrained=False), training=training)
        fabric = lit.Fabric(accelerator="cpu", devices=1)
        resume = Path(folder) / "resume"
        fit_fold(
            fabric, build_network(recipe), recipe, cases, every, every[:0], 0, resume, lambda epoch: None
        )
    return {"own_mb": max(own), "mapped_mb": status_mb("VmHWM")}


def status_mb(name: str) -> float:
    """Return what the kernel says about this process's memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024


@contextmanager
def own_memory(every_s: float = 0.02) -> Iterator[list[float]]:
    """Give the list of this process's anonymous memory in MB, which grows while the block runs."""
    seen, done = [0.0], Event()

    def watch() -> None:
        while not done.wait(every_s):
            seen.append(status_mb("RssAnon"))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def report(
    arguments: argparse.Namespace, speeds: dict[str, list[float]], memory: dict[int, dict[str, float]]
) -> None:
    """Print the tables and write them."""
    shares = {name: median_ratio(values, speeds[IN_MEMORY]) for name, values in speeds.items()}
    for name, values in speeds.items():
        repeats, median = " ".join(f"{value:.1f}" for value in values), statistics.median(values)
        print(f"{name:<36}{median:7.1f} images/s  {shares[name]:5.2f} of tensors in memory  ({repeats})")
    for count, each in memory.items():
        own, mapped = each["own_mb"], each["mapped_mb"]
        print(f"{count:5d} images in the cache: {own:6.0f} MB of its own, {mapped:6.0f} MB with mapped pages")
    few, many = (memory[count]["own_mb"] for count in CACHED)
    options = [f"--{name} {getattr(arguments, name)}" for name in ("images", "passes", "repeats")]
    content = {
        "command": " ".join(["benchmarks/training_loop.py", f"--recipe {arguments.recipe.name}", *options]),
        "images_per_s": speeds,
        "median_ratio_to_tensors_in_memory": shares,
        "memory": {f"{count} images": each for count, each in memory.items()},
        "memory_growth": many / few - 1,
    }
    versions = {"torch": torch.__version__, "timm": timm.__version__, "opencv": cv2.__version__}
    write_results("training_loop", content, **versions)


if __name__ == "__main__":
    main()
