"""A fold's network: uint8 pixels in, logits out. It normalises itself, so nobody else has to."""

import sys
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fundus_core.ensemble import Normalise
from fundus_core.errors import RecipeError
from fundus_core.schema import nearest
from fundus_core.views import View
from fundus_train.recipe import Recipe

HEAD_STD = 0.01  # of a new classifier's weights


class FundusNetwork(nn.Module):
    """`backbone` behind its own normalisation: (N, S, S, 3) uint8 -> (N, K) logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, normalise: Normalise) -> None:
        super().__init__()
        self.backbone = backbone
        self.normalise = normalise
        self.register_buffer("mean", 255 * torch.tensor(normalise.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(normalise.std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, K) of (N, S, S, 3) uint8 pixels."""
        planes = (pixels.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std
        logits: Tensor = self.backbone(planes)
        return logits


def build_network(recipe: Recipe, weights: Path | None = None) -> FundusNetwork:
    """Return a new network (see `build_backbone`) that normalises as its ImageNet weights expect."""
    backbone = build_backbone(recipe, weights)
    config = _config(backbone)
    return FundusNetwork(backbone, Normalise(tuple(config["mean"]), tuple(config["std"])))


def build_backbone(recipe: Recipe, weights: Path | None = None) -> nn.Module:
    """Return a timm network with K outputs.

    ImageNet weights come from the file `weights` (safetensors in timm's naming) or, without one, from timm;
    `pretrained = false` starts from random weights.

    Raises:
        RecipeError: an unknown architecture, an image size that it cannot take, or weights that do not
            belong to it.
    """
    architecture = recipe.network.architecture
    if not timm.is_model(architecture):
        raise RecipeError(f"timm knows no architecture '{architecture}'.{_suggestion(architecture)}")
    options: dict[str, Any] = {"num_classes": len(recipe.labels), "drop_rate": recipe.network.dropout}
    download = recipe.network.pretrained and weights is None
    try:
        if timm.get_pretrained_cfg(architecture).fixed_input_size:  # it fails where a tag is unknown
            options["img_size"] = recipe.preprocess.size_px
        backbone: nn.Module = timm.create_model(architecture, pretrained=download, **options)
    except (OSError, RuntimeError) as error:
        hint = "Give a local file with --weights, or set pretrained = false."
        raise RecipeError(f"timm cannot make '{architecture}' with its weights ({error}). {hint}") from None
    _calm_classifier(backbone)
    _check_size(backbone, architecture, recipe.preprocess.size_px)
    if weights is not None and recipe.network.pretrained:
        _load_pretrained(backbone, architecture, weights)
    return backbone


@torch.no_grad()
def _calm_classifier(backbone: nn.Module) -> None:
    """Start with logits near 0.

    timm draws a classifier of few outputs so large that a new network is certain and wrong, and its first
    gradients undo what the backbone has learnt on ImageNet.
    """
    for name, parameter in backbone.named_parameters():
        if name.startswith(_classifiers(backbone)):
            nn.init.zeros_(parameter) if parameter.ndim == 1 else nn.init.normal_(parameter, std=HEAD_STD)


def _classifiers(backbone: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers whose shape is the recipe's own."""
    names = _config(backbone)["classifier"]
    return (names,) if isinstance(names, str) else tuple(names)


@torch.inference_mode()
def _check_size(backbone: nn.Module, architecture: str, size_px: int) -> None:
    try:
        backbone.eval()(torch.zeros(1, 3, size_px, size_px))
    except (RuntimeError, AssertionError) as error:
        hint = "Choose another size_px, such as a multiple of 32."
        raise RecipeError(f"'{architecture}' cannot take {size_px} px images ({error}). {hint}") from None
    backbone.train()


def _config(backbone: nn.Module) -> dict[str, Any]:
    return cast("dict[str, Any]", backbone.pretrained_cfg)


def _suggestion(architecture: str) -> str:
    hint = nearest(architecture, timm.list_models())
    return hint if "Did you mean" in hint else " See timm.list_models()."


def _load_pretrained(backbone: nn.Module, architecture: str, weights: Path) -> None:
    """Load everything but the classifier, whose shape is the recipe's own."""
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        hint = "Give one in timm's naming."
        raise RecipeError(f"'{weights}' is no safetensors file ({error}). {hint}") from None
    hint = "Give this architecture's weights, or change the architecture."
    adapt = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if adapt:  # timm's own: position embeddings to another image size
        try:
            state = adapt(state, backbone)
        except Exception as error:  # foreign weights may trip it anywhere
            raise RecipeError(f"'{weights.name}' is not for {architecture} ({error!r}). {hint}") from None
    own = backbone.state_dict()
    if misfit := _misfit(own, state, _classifiers(backbone)):
        raise RecipeError(f"'{weights.name}' is not for {architecture}: {misfit}. {hint}")
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    backbone.load_state_dict(own | fitting)


def _misfit(own: dict[str, Tensor], state: dict[str, Tensor], heads: tuple[str, ...]) -> str:
    """Say which tensor outside the classifier tells that `state` is not for a network of `own`; "" if none.

    A deeper sibling has all tensors of a network, and more.
    """
    for name, value in own.items():
        differs = name not in state or state[name].shape != value.shape
        if differs and not name.startswith(heads) and not name.endswith("num_batches_tracked"):
            return f"{name} is missing or differs"
    beyond = [name for name in state if name not in own and not name.startswith(heads)]
    return f"it has {beyond[0]} beside" if beyond else ""


def view_axes(view: View) -> tuple[int, ...]:
    """Return the axes that `view` flips in an (N, H, W, C) tensor."""
    return tuple(axis + 1 for axis in view.flip_axes)


def mean_probability(network: nn.Module, pixels: Tensor, views: tuple[View, ...]) -> Tensor:
    """Return the probabilities (N, K) of (N, S, S, 3) uint8 pixels, averaged over the test-time views."""
    stacked = torch.cat([pixels.flip(view_axes(view)) if view.flip_axes else pixels for view in views])
    probability: Tensor = torch.sigmoid(network(stacked).float())
    return probability.reshape(len(views), -1, probability.shape[-1]).mean(0)
