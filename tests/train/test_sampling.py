from collections import Counter

import numpy as np
import pytest

from fundus_train.sampling import Draws, draws_per_group

GROUP = np.repeat(np.arange(3), (60, 9, 31))  # of 100 cases
SHUFFLED = np.random.default_rng(0).permutation(GROUP)


def epoch(draws: Draws, number: int) -> list[tuple[int, int]]:
    draws.epoch = number
    return list(draws)


def places(drawn: list[tuple[int, int]]) -> list[int]:
    return [place for _, place in drawn]


def test_without_balance_every_case_comes_once_an_epoch() -> None:
    draws = Draws(SHUFFLED, 0, seed=3)
    for number in range(3):
        assert sorted(places(epoch(draws, number))) == list(range(100))


def test_with_full_balance_every_group_comes_equally_often() -> None:
    drawn = places(epoch(Draws(SHUFFLED, 1, seed=3), 0))
    counts = Counter(SHUFFLED[drawn].tolist())
    assert len(drawn) == 100
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("balance", [0.25, 0.5, 0.75])
def test_between_them_a_group_gets_its_power_of_the_size(balance: float) -> None:
    counts = np.bincount(SHUFFLED[places(epoch(Draws(SHUFFLED, balance, seed=3), 0))])
    share = np.array([60, 9, 31]) ** (1 - balance)
    assert np.abs(counts - 100 * share / share.sum()).max() <= 1


def test_within_a_group_no_case_comes_twice_more_than_another() -> None:
    counts = np.bincount(places(epoch(Draws(SHUFFLED, 1, seed=3), 0)), minlength=100)
    for group in range(3):
        assert np.ptp(counts[group == SHUFFLED]) <= 1


def test_a_large_group_is_not_cut_to_the_same_cases_each_epoch() -> None:
    draws = Draws(SHUFFLED, 1, seed=3)
    seen = set().union(*(places(epoch(draws, number)) for number in range(12)))
    assert seen == set(range(100))


@pytest.mark.parametrize("sizes", [[1], [1, 1], [7, 1], [1000, 1, 3], [5] * 40])
@pytest.mark.parametrize("balance", [0, 0.3, 1])
def test_there_are_as_many_draws_as_cases(sizes: list[int], balance: float) -> None:
    counts = draws_per_group(np.array(sizes), balance)
    assert counts.sum() == sum(sizes)
    assert (counts >= 0).all()


@pytest.mark.parametrize("balance", [0, 1])
def test_the_order_depends_on_seed_and_epoch_alone(balance: float) -> None:
    first, again = Draws(SHUFFLED, balance, seed=3), Draws(SHUFFLED, balance, seed=3)
    epoch(again, 0)
    np.random.seed(1)
    assert epoch(first, 5) == epoch(again, 5)
    assert places(epoch(first, 5)) != places(epoch(first, 6))
    assert places(epoch(first, 5)) != places(epoch(Draws(SHUFFLED, balance, seed=4), 5))


def test_the_order_is_no_order_of_groups() -> None:
    order = GROUP[places(epoch(Draws(GROUP, 0, seed=0), 0))]
    assert all(len(set(part)) > 1 for part in np.split(order, 5))


def test_no_draw_of_a_training_has_the_number_of_another() -> None:
    draws = Draws(SHUFFLED, 1, seed=0)
    numbers = [number for each in range(4) for number, _ in epoch(draws, each)]
    assert numbers == list(range(400))


@pytest.mark.parametrize("world", [2, 3, 7])
@pytest.mark.parametrize("balance", [0, 1])
def test_devices_together_draw_what_one_draws_and_each_its_own(world: int, balance: float) -> None:
    one = epoch(Draws(SHUFFLED, balance, seed=3), 2)
    ranks = [Draws(SHUFFLED, balance, 3, rank, world) for rank in range(world)]
    apart = [epoch(draws, 2) for draws in ranks]
    assert {len(each) for each in apart} == {len(draws) for draws in ranks} == {100 // world}
    together = [draw for step in zip(*apart, strict=True) for draw in step]
    assert together == one[: 100 // world * world]
