"""The training loop of one fold, on one page. Lightning Fabric does precision, devices and processes."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as lit
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from fundus_core.errors import RecipeError
from fundus_core.views import View, views_named
from fundus_eval.auc import OneClassError, auc_delong
from fundus_train.averaging import Keeper
from fundus_train.cases import Cases
from fundus_train.feed import CaseDataset, training_loader
from fundus_train.losses import SCHEDULES, loss_of
from fundus_train.network import FundusNetwork, mean_probability
from fundus_train.recipe import Recipe, Training

PREDICT_BATCH = 4  # times the views
PLAIN = views_named(("identity",))
CALMER = "Lower learning_rate, or set precision = '32-true'."
RANK_STRIDE = 10**9  # far beyond the seeds of folds and epochs
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Epoch:
    """What one epoch of one fold did. `validation_auc` is None where nothing was validated."""

    number: int  # from 1
    loss: float
    validation_auc: float | None
    learning_rate: float
    n_images: int
    seconds: float


Report = Callable[[Epoch], None]


def fit_fold(
    fabric: lit.Fabric,
    network: FundusNetwork,
    recipe: Recipe,
    cases: Cases,
    training_part: Index,
    validation_part: Index,
    seed: int,
    resume_path: Path,
    report: Report,
) -> None:
    """Train `network` in place on one part of the cases; resume after the last epoch in `resume_path`.

    It ends with the last weights, their average, or those of the best epoch, as the recipe says.

    Raises:
        RecipeError: too few cases for a batch, or training that diverged; the epoch before is kept.
    """
    training = recipe.training
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    model, optimizer = fabric.setup(network.to(memory_format=torch.channels_last), optimizer)
    loader, draws = training_loader(fabric, recipe, cases, training_part, seed)
    updates = _updates(loader, training, len(training_part))
    factor = SCHEDULES[training.scheduler](training.epochs, updates)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    keeper = Keeper(network, training)
    kept = {"model": model, "optimizer": optimizer, "schedule": schedule, "keeper": keeper}
    state: dict[str, Any] = kept | {"epoch": 0}
    if resume_path.exists():
        fabric.load(resume_path, state)
    while state["epoch"] < training.epochs and not keeper.gave_up:
        started = time.perf_counter()
        draws.epoch = state["epoch"]
        # dropout: a resumed epoch draws what it would have drawn, each device its own
        torch.manual_seed(seed + draws.epoch + RANK_STRIDE * fabric.global_rank)
        rate = optimizer.param_groups[0]["lr"]
        loss = train_epoch(fabric, model, loader, optimizer, schedule, training, keeper)
        check_answers(network, cases, training_part, fabric.device)  # a loss is of the weights before a step
        state["epoch"] += 1
        keeper.after_epoch(state["epoch"])
        wanted = training.patience and len(validation_part)
        auc = validate(fabric, keeper, recipe, cases, validation_part) if wanted else None
        n_images = updates * training.accumulate * training.batch_size * fabric.world_size
        # before it is saved: a run that is stopped between the two repeats the epoch, and loses no report
        report(Epoch(state["epoch"], loss, auc, rate, n_images, time.perf_counter() - started))
        _save_whole(fabric, resume_path, state)
    keeper.finish()


def _updates(loader: DataLoader[Any], training: Training, n_cases: int) -> int:
    """Return how often an epoch changes the weights."""
    updates = len(loader) // training.accumulate
    if updates == 0:
        size = training.batch_size * training.accumulate
        raise RecipeError(f"{n_cases} training cases make no batch of {size}. Lower batch_size.")
    return updates


def train_epoch(
    fabric: lit.Fabric,
    model: Any,  # a network that Fabric has set up
    loader: DataLoader[Any],  # of (pixels, targets)
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    training: Training,
    keeper: Keeper,
) -> float:
    """Run one epoch; return its mean loss.

    Raises:
        RecipeError: the loss is no finite number.
    """
    model.train()
    losses = []
    for number, (pixels, targets) in enumerate(loader, start=1):
        update = number % training.accumulate == 0
        with fabric.no_backward_sync(model, enabled=not update):
            loss = loss_of(model(pixels), targets, training)
            fabric.backward(loss / training.accumulate)
        losses.append(loss.detach())
        if update:
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            keeper.after_step()
    optimizer.zero_grad()  # of the batches behind the last update
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise RecipeError(f"Training diverged: the loss is {mean}. {CALMER}")
    return mean


def validate(fabric: lit.Fabric, keeper: Keeper, recipe: Recipe, cases: Cases, index: Index) -> float:
    """Return the labels' mean AUC on the cases of `index`, and let the keeper judge by it."""
    scores = predict(keeper.network, cases, index, views_named(recipe.views), fabric.device)
    # each device has batch statistics of its own; all must stop after the same epoch
    auc: float = fabric.broadcast(mean_auc(cases.targets[index], scores))
    keeper.judge(auc)
    return auc


def mean_auc(targets: NDArray[np.int8], scores: NDArray[np.float32]) -> float:
    """Return the mean AUC of scores (N, K) over the labels that have both classes; NaN where none has."""
    aucs = []
    for truth, score in zip(targets.T, scores.T, strict=True):
        try:
            aucs.append(auc_delong(truth[truth >= 0], score[truth >= 0]).value)
        except OneClassError:
            continue
    return float(np.mean(aucs)) if aucs else math.nan


def _save_whole(fabric: lit.Fabric, path: Path, state: dict[str, object]) -> None:
    partial = path.with_suffix(".partial")
    fabric.save(partial, state)
    if fabric.is_global_zero:
        partial.replace(path)
    fabric.barrier()


def check_answers(network: nn.Module, cases: Cases, index: Index, device: torch.device) -> None:
    """Refuse weights that answer with no number, on a few cases of `index`.

    Raises:
        RecipeError: training diverged.
    """
    if not np.isfinite(predict(network, cases, index[:PREDICT_BATCH], PLAIN, device)).all():
        raise RecipeError(f"Training diverged: the network answers with no numbers. {CALMER}")


@torch.inference_mode()
def predict(
    network: nn.Module,
    cases: Cases,
    index: Index,
    views: tuple[View, ...],
    device: torch.device,
) -> NDArray[np.float32]:
    """Return the probabilities (len(index), K) of the cases of `index`, averaged over `views`, in float32."""
    network.eval().to(device)
    loader = DataLoader(CaseDataset(cases, index), PREDICT_BATCH)
    batches = [mean_probability(network, pixels.to(device), views).cpu().numpy() for pixels, _ in loader]
    return np.concatenate(batches)
