import torch
from torch import nn

from fundus_train.rounding import fold_normalisations


class Seen(nn.Sequential):
    """Takes pixels as networks do: (N, S, S, 3) uint8."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = super().forward(pixels.permute(0, 3, 1, 2) / 255)
        return answer


def test_a_folded_normalisation_leaves_the_answers_also_of_a_convolution_with_a_bias() -> None:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1, bias=False)
    network = Seen(convolutions[0], nn.BatchNorm2d(4), nn.ReLU(), convolutions[1], nn.BatchNorm2d(2))
    for norm in (each for each in network if isinstance(each, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.02, 0.2)
        nn.init.uniform_(norm.weight, 0.5, 2)
    pixels = torch.randint(256, (2, 8, 8, 3), dtype=torch.uint8)
    before = network.eval()(pixels)
    fold_normalisations(network, pixels)
    after = network(pixels)
    assert torch.allclose(after, before, atol=1e-5)
    assert before.abs().max() > 1
