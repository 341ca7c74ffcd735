import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from fundus_train.losses import SCHEDULES, constant, late_step, loss_of, smooth_targets, warm_cosine
from fundus_train.recipe import Training

BCE, FOCAL = Training(), Training(loss="focal", focal_gamma=2.0)
LOGITS = torch.tensor([[0.3, -1.2], [2.0, 0.1], [-0.7, 3.0]])
TARGETS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def by_hand(logit: float, target: float, gamma: float = 0.0) -> float:
    """Return the cross-entropy times the share of probability that is wrong, to the power of gamma."""
    p = 1 / (1 + math.exp(-logit))
    right = p * target + (1 - p) * (1 - target)
    entropy = -target * math.log(p) - (1 - target) * math.log(1 - p)
    return (1 - right) ** gamma * entropy


def mean_by_hand(alpha: float, gamma: float) -> float:
    smooth = {1.0: 1 - alpha, 0.0: alpha / 2}
    pairs = zip(LOGITS.ravel().tolist(), TARGETS.ravel().tolist(), strict=True)
    return sum(by_hand(logit, smooth[target], gamma) for logit, target in pairs) / LOGITS.numel()


def test_smoothing_is_the_reports_asymmetric_form() -> None:
    targets = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert torch.allclose(smooth_targets(targets, 0.1), torch.tensor([[0.05, 0.9], [0.9, 0.05]]))
    assert torch.equal(smooth_targets(targets, 0.0), targets)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_the_losses_are_those_of_the_formulas(alpha: float) -> None:
    for training, gamma in ((BCE, 0.0), (FOCAL, 2.0), (replace(FOCAL, focal_gamma=0.5), 0.5)):
        found = loss_of(LOGITS, TARGETS, replace(training, label_smoothing=alpha))
        assert found.item() == pytest.approx(mean_by_hand(alpha, gamma), rel=1e-5)


def test_focal_loss_without_focus_is_cross_entropy_and_with_it_looks_at_the_wrong_ones() -> None:
    plain, unfocused = (
        loss_of(LOGITS, TARGETS, BCE),
        loss_of(LOGITS, TARGETS, replace(FOCAL, focal_gamma=0.0)),
    )
    assert unfocused.item() == pytest.approx(plain.item(), rel=1e-6)
    right, wrong = torch.tensor([[4.0]]), torch.tensor([[-4.0]])
    one = torch.ones(1, 1)
    share = [loss_of(right, one, each) / loss_of(wrong, one, each) for each in (FOCAL, BCE)]
    assert share[0] < share[1] / 1000


@pytest.mark.parametrize("training", [BCE, FOCAL, replace(BCE, label_smoothing=0.1)])
def test_an_unknown_target_counts_for_nothing(training: Training) -> None:
    logits, targets = LOGITS.clone().requires_grad_(), TARGETS.clone()
    targets[0, 1] = targets[2, 0] = -1
    loss = loss_of(logits, targets, training)
    loss.backward()
    assert torch.equal(logits.grad == 0, targets < 0)
    known = targets >= 0
    alone = torch.stack(
        [
            loss_of(logit.reshape(1, 1), target.reshape(1, 1), training)
            for logit, target in zip(LOGITS[known], TARGETS[known], strict=True)
        ]
    )
    assert loss.item() == pytest.approx(alone.mean().item(), rel=1e-5)


def test_a_batch_that_knows_nothing_moves_nothing() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = loss_of(logits, torch.full_like(LOGITS, -1), BCE)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_the_loss_of_half_precision_logits_is_computed_in_full() -> None:
    assert loss_of(LOGITS.bfloat16(), TARGETS, BCE).dtype == torch.float32


def test_the_learning_rate_warms_up_for_an_epoch_and_falls_to_nothing() -> None:
    factor = [warm_cosine(epochs=5, steps=10)(step) for step in range(51)]
    assert factor[0] == pytest.approx(0.1)
    assert factor[9] == factor[10] == 1
    assert factor[30] == pytest.approx(0.5)
    assert factor[50] == pytest.approx(0)
    assert all(later <= earlier for earlier, later in pairwise(factor[10:]))


def test_the_other_schedules_are_a_late_step_and_a_constant() -> None:
    late = [late_step(epochs=6, steps=10)(step) for step in range(60)]
    assert late == [1.0] * 40 + [0.1] * 20
    assert {constant(epochs=6, steps=10)(step) for step in range(60)} == {1.0}
    assert {"cosine": warm_cosine, "step": late_step, "none": constant} == SCHEDULES
