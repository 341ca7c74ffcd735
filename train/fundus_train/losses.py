"""What a training step minimises, and how its learning rate goes."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from fundus_train.recipe import Training

STEP_AT, STEP_FACTOR = 2 / 3, 0.1


def loss_of(logits: Tensor, targets: Tensor, training: Training) -> Tensor:
    """Return the mean loss of logits (N, K) over the known targets (N, K) of 0 and 1; -1 is not known."""
    known = targets >= 0
    smooth = smooth_targets(targets, training.label_smoothing)
    if training.loss == "focal":
        each = sigmoid_focal_loss(logits.float(), smooth, alpha=-1, gamma=training.focal_gamma)
    else:
        each = nn.functional.binary_cross_entropy_with_logits(logits.float(), smooth, reduction="none")
    mean: Tensor = (each * known).sum() / known.sum().clamp(min=1)
    return mean


def smooth_targets(targets: Tensor, alpha: float) -> Tensor:
    """Return the report's asymmetric smoothing: 1 becomes 1 - alpha, 0 becomes alpha / 2."""
    return torch.where(targets > 0.5, 1 - alpha, alpha / 2)


def warm_cosine(epochs: int, steps: int) -> Callable[[int], float]:
    """Return the learning rate's factor by step: linear over the first epoch, then half a cosine to 0."""
    total = epochs * steps

    def factor(step: int) -> float:
        if step < steps:
            return (step + 1) / steps
        return 0.5 * (1 + math.cos(math.pi * (step - steps) / max(1, total - steps)))

    return factor


def late_step(epochs: int, steps: int) -> Callable[[int], float]:
    """Return the factor 1, and a tenth from two thirds of the training on."""
    return lambda step: STEP_FACTOR if step >= STEP_AT * epochs * steps else 1.0


def constant(epochs: int, steps: int) -> Callable[[int], float]:
    """Return the factor 1."""
    return lambda step: 1.0


SCHEDULES = {"cosine": warm_cosine, "step": late_step, "none": constant}
