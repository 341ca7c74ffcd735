"""Which weights a fold keeps: the last ones, an average of them, or those of its best epoch."""

import copy
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from fundus_train.recipe import Training


class Keeper:
    """Follows the training of `network` and knows which weights count.

    Batch normalisation's statistics are averaged like the weights, so no pass over the images is needed.
    """

    def __init__(self, network: nn.Module, training: Training) -> None:
        self.plain, self.training = network, training
        self.average = _average(network, training)
        self.best: dict[str, Tensor] | None = None
        self.best_auc, self.worse_epochs = -1.0, 0

    @property
    def network(self) -> nn.Module:
        """The network that counts at this moment."""
        if self.average is None or not int(self.average.n_averaged):
            return self.plain
        module: nn.Module = self.average.module
        return module

    @property
    def gave_up(self) -> bool:
        """Whether `patience` epochs have passed without a better validation AUC."""
        return 0 < self.training.patience <= self.worse_epochs

    def after_step(self) -> None:
        """Take the new weights into the exponential average."""
        if self.average is not None and self.training.ema_decay:
            self.average.update_parameters(self.plain)

    def after_epoch(self, number: int) -> None:
        """Take the weights of epoch `number` (from 1) into the plain average, if it is one of the last."""
        if self.average is not None and number > self.training.epochs - self.training.swa_epochs:
            self.average.update_parameters(self.plain)

    def judge(self, auc: float) -> None:
        """Remember the weights if they have the best validation AUC so far."""
        self.worse_epochs += 1
        if auc > self.best_auc:
            self.best_auc, self.worse_epochs = auc, 0
            self.best = copy.deepcopy(self.network.state_dict())

    def finish(self) -> None:
        """Give the plain network the weights that count."""
        self.plain.load_state_dict(self.best if self.best is not None else self.network.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        average = self.average and self.average.state_dict()
        return {
            "average": average,
            "best": self.best,
            "best_auc": self.best_auc,
            "worse_epochs": self.worse_epochs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best, self.best_auc, self.worse_epochs = (
            state["best"],
            state["best_auc"],
            state["worse_epochs"],
        )


def _average(network: nn.Module, training: Training) -> AveragedModel | None:
    if not (training.ema_decay or training.swa_epochs):
        return None
    decay = training.ema_decay
    mean = get_ema_multi_avg_fn(decay) if decay else get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]

    def average(averaged: Any, current: Any, count: Any) -> None:
        if averaged[0].is_floating_point():
            mean(averaged, current, count)
        else:  # batch normalisation counts its batches, which has no mean
            for old, new in zip(averaged, current, strict=True):
                old.copy_(new)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
