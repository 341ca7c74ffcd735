import copy

import pytest
import torch
from torch import nn

from fundus_train.averaging import Keeper
from fundus_train.recipe import Training

State = dict[str, torch.Tensor]


def network_of(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def change(network: nn.Module, seed: int) -> State:
    """Give the network other weights and batch statistics; return them."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value + 1
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(state)
    return copy.deepcopy(network.state_dict())


def same(state: State, expected: State) -> bool:
    floats = [name for name, value in state.items() if value.is_floating_point()]
    assert state.keys() == expected.keys()
    assert "1.running_mean" in floats
    return all(torch.allclose(state[name], expected[name], atol=1e-6) for name in floats)


def mean_of(states: list[State], weights: list[float]) -> State:
    return {
        name: sum(weight * state[name] for weight, state in zip(weights, states, strict=True))
        for name in states[0]
    }


def test_without_an_average_the_last_weights_count() -> None:
    network = network_of()
    keeper = Keeper(network, Training())
    assert keeper.network is network
    for step in range(3):
        last = change(network, step)
        keeper.after_step()
        keeper.after_epoch(step + 1)
    assert keeper.network is network
    keeper.finish()
    assert same(network.state_dict(), last)


def test_the_exponential_average_is_the_one_computed_by_hand() -> None:
    network = network_of()
    keeper = Keeper(network, Training(ema_decay=0.9))
    assert keeper.network is network  # before the first step there is nothing to average
    states = []
    for step in range(4):
        states.append(change(network, step))
        keeper.after_step()
    expected = states[0]
    for state in states[1:]:
        expected = mean_of([expected, state], [0.9, 0.1])
    assert same(keeper.network.state_dict(), expected)
    assert same(network.state_dict(), states[-1])  # training itself goes on from its own weights
    keeper.finish()
    assert same(network.state_dict(), expected)


@pytest.mark.parametrize("swa_epochs", [1, 3, 5])
def test_the_plain_average_is_the_mean_of_the_last_epochs(swa_epochs: int) -> None:
    network = network_of()
    keeper = Keeper(network, Training(epochs=5, swa_epochs=swa_epochs))
    states = []
    for epoch in range(1, 6):
        change(network, 100 + epoch)
        keeper.after_step()
        states.append(change(network, epoch))
        keeper.after_epoch(epoch)
    keeper.finish()
    assert same(network.state_dict(), mean_of(states[-swa_epochs:], [1 / swa_epochs] * swa_epochs))


def test_patience_ends_training_after_so_many_epochs_without_a_better_auc() -> None:
    keeper = Keeper(network_of(), Training(patience=2))
    gave_up = []
    for auc in (0.6, 0.5, 0.7, 0.7, float("nan")):
        keeper.judge(auc)
        gave_up.append(keeper.gave_up)
    assert gave_up == [False, False, False, False, True]


def test_without_patience_nobody_gives_up() -> None:
    keeper = Keeper(network_of(), Training())
    for _ in range(20):
        keeper.judge(0.5)
    assert not keeper.gave_up


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_the_weights_of_the_best_epoch_come_back(ema_decay: float) -> None:
    network = network_of()
    keeper = Keeper(network, Training(patience=3, ema_decay=ema_decay))
    seen = []
    for epoch, auc in enumerate((0.6, 0.9, 0.9, 0.2)):
        change(network, epoch)
        keeper.after_step()
        keeper.judge(auc)
        seen.append(copy.deepcopy(keeper.network.state_dict()))
    keeper.finish()
    assert same(network.state_dict(), seen[1])
    assert not same(network.state_dict(), seen[2])


def test_where_no_auc_was_ever_known_the_last_weights_count() -> None:
    network = network_of()
    keeper = Keeper(network, Training(patience=3))
    keeper.judge(float("nan"))
    last = change(network, 1)
    keeper.finish()
    assert same(network.state_dict(), last)


@pytest.mark.parametrize(
    "training",
    [
        Training(ema_decay=0.8),
        Training(epochs=6, swa_epochs=4),
        Training(patience=2),
        Training(patience=3, ema_decay=0.8),
    ],
)
def test_a_keeper_goes_on_from_its_state(training: Training) -> None:
    def go(keeper: Keeper, epochs: range) -> None:
        for epoch in epochs:
            change(keeper.plain, epoch)
            keeper.after_step()
            keeper.after_epoch(epoch)
            if training.patience:
                keeper.judge((0.5, 0.8, 0.6, 0.7, 0.6, 0.6)[epoch - 1])

    whole, first, second = (Keeper(network_of(seed), training) for seed in range(3))
    go(whole, range(1, 7))
    go(first, range(1, 4))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.plain.load_state_dict(first.plain.state_dict())
    go(second, range(4, 7))
    assert (second.gave_up, second.best_auc) == (whole.gave_up, whole.best_auc)
    whole.finish()
    second.finish()
    assert same(second.plain.state_dict(), whole.plain.state_dict())
