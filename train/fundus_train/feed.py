"""How cases reach a network: in which order, augmented, in batches, read ahead where a GPU waits for them."""

from dataclasses import dataclass
from typing import Any

import cv2
import lightning as lit
import numpy as np
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fundus_core.limits import usable_cores
from fundus_train.augment import augment
from fundus_train.cases import Cases
from fundus_train.recipe import Augment, Recipe
from fundus_train.sampling import Draw, Draws

MAX_WORKERS = 8  # processes that read and augment for a GPU


@dataclass(frozen=True)
class CaseDataset(Dataset[tuple[Tensor, Tensor]]):
    """Cases as (pixels (S, S, 3) uint8, targets (K,) float32, -1 where not known)."""

    cases: Cases
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        i = self.index[item]
        pixels = torch.from_numpy(np.array(self.cases.pixels[self.cases.row[i]]))
        return pixels, torch.from_numpy(self.cases.targets[i].astype(np.float32))


@dataclass(frozen=True)
class AugmentedDataset(Dataset[tuple[Tensor, Tensor]]):
    """The same cases, changed as `spec` says; each draw has a random stream of its own."""

    plain: CaseDataset
    spec: Augment
    seed: int

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        number, item = draw
        pixels, targets = self.plain[item]
        changed = augment(pixels.numpy(), self.spec, default_rng([self.seed, number]))
        return torch.from_numpy(changed), targets


def training_loader(
    fabric: lit.Fabric, recipe: Recipe, cases: Cases, index: NDArray[np.int64], seed: int
) -> tuple[DataLoader[Any], Draws]:
    """Return batches of the cases of `index`, and the draws behind them, whose `epoch` the loop sets."""
    draws = Draws(cases.group[index], recipe.training.balance, seed, fabric.global_rank, fabric.world_size)
    workers = _workers(fabric)
    if workers:
        cv2.setNumThreads(1)  # OpenCV's own threads do not survive the fork, and would be waited for
    loader: DataLoader[Any] = DataLoader(
        AugmentedDataset(CaseDataset(cases, index), recipe.augment, seed),
        recipe.training.batch_size,
        sampler=draws,
        drop_last=True,
        num_workers=workers,
        pin_memory=workers > 0,
    )
    on_device: Any = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
    return on_device, draws


def _workers(fabric: lit.Fabric) -> int:
    """On the CPU the network needs every core itself."""
    if fabric.device.type == "cpu":
        return 0
    return min(MAX_WORKERS, max(1, usable_cores() // fabric.world_size))
