"""The training loop of one fold, on one page. Lightning Fabric does precision, devices and processes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as lit
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fundus_core.errors import RecipeError
from fundus_core.views import VIEWS, View
from fundus_train.cases import Cases
from fundus_train.network import FundusNetwork, mean_probability
from fundus_train.recipe import Training

PREDICT_BATCH = 4  # times the views
RANK_STRIDE = 10**9  # far beyond the seeds of folds and epochs
Report = Callable[[int, float], None]  # (epochs done, mean loss of the last one)


@dataclass(frozen=True)
class CaseDataset(Dataset[tuple[Tensor, Tensor]]):
    """Cases as (pixels (S, S, 3) uint8, targets (K,) float32)."""

    cases: Cases
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        i = self.index[item]
        pixels = torch.from_numpy(np.array(self.cases.pixels[self.cases.row[i]]))
        return pixels, torch.from_numpy(self.cases.targets[i].astype(np.float32))


def fit_fold(
    fabric: lit.Fabric,
    network: FundusNetwork,
    training: Training,
    cases: Cases,
    index: NDArray[np.int64],
    seed: int,
    resume_path: Path,
    report: Report,
) -> None:
    """Train `network` in place on the cases of `index`; resume after the last epoch in `resume_path`."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    model, optimizer = fabric.setup(network.to(memory_format=torch.channels_last), optimizer)
    shuffle = torch.Generator()
    loader = fabric.setup_dataloaders(
        DataLoader(
            CaseDataset(cases, index), training.batch_size, shuffle=True, drop_last=True, generator=shuffle
        )
    )
    if len(loader) == 0:
        raise RecipeError(
            f"{len(index)} training cases make no batch of {training.batch_size}. Lower batch_size."
        )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_cosine(training.epochs, len(loader)))
    state = {"model": model, "optimizer": optimizer, "schedule": schedule, "epoch": 0}
    if resume_path.exists():
        fabric.load(resume_path, state)
    for epoch in range(state["epoch"], training.epochs):
        shuffle.manual_seed(seed + epoch)
        # dropout and flips: a resumed epoch draws what it would have drawn, each device its own
        torch.manual_seed(seed + epoch + RANK_STRIDE * fabric.global_rank)
        loss = train_epoch(fabric, model, loader, optimizer, schedule, training)
        state["epoch"] = epoch + 1
        _save_whole(fabric, resume_path, state)
        report(epoch + 1, loss)


def train_epoch(
    fabric: lit.Fabric,
    model: nn.Module,
    loader: Iterable[Any],  # of (pixels, targets)
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    training: Training,
) -> float:
    """Run one epoch; return its mean loss."""
    model.train()
    losses = []
    for pixels, targets in loader:
        logits = model(random_flips(pixels) if training.flips else pixels)
        smooth = smooth_targets(targets, training.label_smoothing)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), smooth)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def random_flips(pixels: Tensor) -> Tensor:
    """Flip each of (N, S, S, 3) by one of the four views, drawn at random."""
    drawn = torch.randint(len(VIEWS), (len(pixels),)).tolist()
    views = list(VIEWS.values())
    return torch.stack([image.flip(views[i].flip_axes) for image, i in zip(pixels, drawn, strict=True)])


def smooth_targets(targets: Tensor, alpha: float) -> Tensor:
    """Return the report's asymmetric smoothing: 1 becomes 1 - alpha, 0 becomes alpha / 2."""
    return torch.where(targets > 0.5, 1 - alpha, alpha / 2)


def warm_cosine(epochs: int, steps: int) -> Callable[[int], float]:
    """Return the learning rate's factor by step: linear over the first epoch, then half a cosine to 0."""
    total = epochs * steps

    def factor(step: int) -> float:
        if step < steps:
            return (step + 1) / steps
        return 0.5 * (1 + float(np.cos(np.pi * (step - steps) / max(1, total - steps))))

    return factor


def _save_whole(fabric: lit.Fabric, path: Path, state: dict[str, object]) -> None:
    partial = path.with_suffix(".partial")
    fabric.save(partial, state)
    if fabric.is_global_zero:
        partial.replace(path)
    fabric.barrier()


@torch.inference_mode()
def predict(
    network: FundusNetwork,
    cases: Cases,
    index: NDArray[np.int64],
    views: tuple[View, ...],
    device: torch.device,
) -> NDArray[np.float32]:
    """Return the probabilities (len(index), K) of the cases of `index`, averaged over `views`, in float32."""
    network.eval().to(device)
    loader = DataLoader(CaseDataset(cases, index), PREDICT_BATCH)
    batches = [mean_probability(network, pixels.to(device), views).cpu().numpy() for pixels, _ in loader]
    return np.concatenate(batches)
