"""Which training cases an epoch draws, in which order. The order depends on the seed and the epoch alone."""

from collections.abc import Iterator

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from torch.utils.data import Sampler

Draw = tuple[int, int]  # (number of the draw since the start of training, place in the training part)


class Draws(Sampler[Draw]):
    """Every epoch draws as many cases as there are. Each device of `world` takes its own of them, in turn.

    Args:
        group: (N,) number of each case's source and label combination.
        balance: 0 draws every case once; 1 draws every group equally often; see `draws_per_group`.
        seed: of the order.
        rank: which device this is, of `world`.
    """

    def __init__(
        self, group: NDArray[np.int64], balance: float, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.members = [np.flatnonzero(group == number) for number in np.unique(group)]
        self.quota = draws_per_group(np.array([len(each) for each in self.members]), balance)
        self.seed, self.rank, self.world = seed, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return int(self.quota.sum()) // self.world

    def __iter__(self) -> Iterator[Draw]:
        rng = default_rng([self.seed, self.epoch])
        drawn = [_draw(members, count, rng) for members, count in zip(self.members, self.quota, strict=True)]
        order = rng.permutation(np.concatenate(drawn))
        first = self.epoch * len(order)
        for position in range(self.rank, len(self) * self.world, self.world):
            yield first + position, int(order[position])


def draws_per_group(size: NDArray[np.int64], balance: float) -> NDArray[np.int64]:
    """Share as many draws as there are cases among groups of `size` (G,), by n ** (1 - balance)."""
    share = size ** (1 - balance)
    edges = np.round(np.cumsum(share) / share.sum() * size.sum()).astype(np.int64)
    return np.diff(edges, prepend=0)


def _draw(members: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `count` of the members: each is drawn n times before any is drawn n + 1 times."""
    whole, rest = divmod(count, len(members))
    return np.concatenate([np.tile(members, whole), rng.permutation(members)[:rest]])
