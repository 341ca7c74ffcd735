"""Round trained weights to half precision once, before anything is scored with them.

A served graph has each batch normalisation folded into the convolution before it. The weights are therefore
rounded as folded, so that the export can store them in 16 bits without changing an answer: what is evaluated
is what is shipped.
"""

import torch
from torch import Tensor, nn


@torch.no_grad()
def round_weights(network: nn.Module, pixels: Tensor) -> None:
    """Make every weight matrix and folded kernel of `network` a half-precision number, in place.

    Args:
        network: in any mode; left in evaluation mode.
        pixels: (N, S, S, 3) uint8, any content; shows which normalisation follows which convolution.
    """
    scales: dict[nn.Module, Tensor] = {
        conv: _scale(norm) for conv, norm in _folding_pairs(network.eval(), pixels)
    }
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1:
            scale = scales.get(module, torch.ones(len(weight), device=weight.device))
            scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
            weight.copy_(torch.where(scale == 0, weight, (weight * scale).half() / scale))


@torch.no_grad()
def fold_normalisations(network: nn.Module, pixels: Tensor) -> None:
    """Move the scale of every batch normalisation into the convolution before it, in place.

    The answers stay, and weights that `round_weights` has rounded become half-precision numbers as they are.

    Args:
        network: in any mode; left in evaluation mode.
        pixels: (N, S, S, 3) uint8, any content; shows which normalisation follows which convolution.
    """
    for conv, norm in _folding_pairs(network.eval(), pixels):
        scale = _scale(norm)
        conv.weight.mul_(scale.reshape(-1, 1, 1, 1))
        if conv.bias is not None:
            conv.bias.mul_(scale)
        mean, variance = _statistics(norm)
        norm.bias.sub_(mean * scale)
        norm.weight.fill_(1)
        mean.zero_()
        variance.fill_(1 - norm.eps)


def _scale(norm: nn.BatchNorm2d) -> Tensor:
    return norm.weight / torch.sqrt(_statistics(norm)[1] + norm.eps)


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the frozen mean and variance; they are what folding is about."""
    assert norm.running_mean is not None  # noqa: S101
    assert norm.running_var is not None  # noqa: S101
    return norm.running_mean, norm.running_var


def _folding_pairs(network: nn.Module, pixels: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return (convolution, normalisation) wherever the one's output is the other's input."""
    made: list[tuple[nn.Conv2d, Tensor]] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def convolved(module: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        made.append((module, output))

    def normalising(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.BatchNorm2d):
            pairs.extend((conv, module) for conv, output in made if output is inputs[0])

    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [conv.register_forward_hook(convolved) for conv in convolutions]
    hooks += [norm.register_forward_pre_hook(normalising) for norm in norms]
    network(pixels)
    for hook in hooks:
        hook.remove()
    return pairs
