"""The graphs that are served: a fold with its test-time views inside, and the average of the folds."""

from torch import Tensor, nn, stack

from fundus_core.views import View
from fundus_train.network import FundusNetwork, mean_probability


class FoldWithViews(nn.Module):
    """`pixels` (N, S, S, 3) uint8 -> `probability` (N, K) float32, averaged over the views.

    The views are stacked on the batch axis, so the graph holds the network once.
    """

    def __init__(self, network: FundusNetwork, views: tuple[View, ...]) -> None:
        super().__init__()
        self.network = network
        self.views = views

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the mean probability (N, K)."""
        return mean_probability(self.network, pixels.float(), self.views)  # TensorRT flips no uint8


class FoldAverage(nn.Module):
    """F times `probability` (N, K) -> their mean (N, K), and all of them (N, F, K)."""

    def forward(self, *folds: Tensor) -> tuple[Tensor, Tensor]:
        """Return (probability, fold_probability)."""
        fold_probability = stack(folds, dim=1)
        return fold_probability.mean(dim=1), fold_probability
