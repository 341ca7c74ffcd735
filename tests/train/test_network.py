from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fundus_core.ensemble import Normalise
from fundus_core.errors import RecipeError
from fundus_core.preprocess import PreprocessSpec
from fundus_core.views import VIEWS
from fundus_train.network import FundusNetwork, build_backbone, build_network, mean_probability
from fundus_train.recipe import Network, Recipe

FAMILIES = (
    "test_efficientnet",
    "test_resnet",
    "test_convnext",
    "test_nfnet",
    "test_maxvit",
    "test_vit",
    "test_vit3",
)


def recipe_of(architecture: str, size_px: int = 64, **options: object) -> Recipe:
    network = Network(architecture, **({"pretrained": False} | options))
    return Recipe("x", network, labels=("glaucoma", "amd"), preprocess=PreprocessSpec(size_px=size_px))


def pixels_of(n: int, size_px: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, size_px, size_px, 3), np.uint8))


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("size_px", [64, 96])
@torch.inference_mode()
def test_a_network_of_any_family_takes_the_size_of_the_recipe(architecture: str, size_px: int) -> None:
    network = build_network(recipe_of(architecture, size_px))
    assert network.training
    assert network.eval()(pixels_of(2, size_px)).shape == (2, 2)


@pytest.mark.parametrize(
    ("architecture", "size_px"),
    [
        ("efficientnet_b0", 512),
        ("efficientnet_b2", 512),
        ("efficientnet_b6", 512),
        ("resnext50_32x4d", 512),
        ("resnest50d", 512),
        ("deit_base_patch16_224", 224),
        *((f"tf_efficientnet_lite{n}", 256) for n in range(5)),
    ],
)
def test_the_networks_of_the_report_and_those_of_the_lite_family_can_be_made(
    architecture: str, size_px: int
) -> None:
    """On the meta device, which knows shapes and computes nothing."""
    with torch.device("meta"), torch.inference_mode():
        network = build_network(recipe_of(architecture, size_px)).eval()
        assert network(torch.zeros(2, size_px, size_px, 3, dtype=torch.uint8)).shape == (2, 2)


@torch.inference_mode()
def test_a_network_normalises_as_its_backbone_expects() -> None:
    network = build_network(recipe_of("test_resnet")).eval()
    config = timm.get_pretrained_cfg("test_resnet")
    assert network.normalise == Normalise(tuple(config.mean), tuple(config.std))
    planes = pixels_of(3).permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (config.mean, config.std))
    expected = network.backbone(((planes - mean) / std).float())
    assert torch.allclose(network(pixels_of(3)), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "hint"),
    [
        ("resnet_18", "Did you mean 'resnet"),
        ("efficientnet-b0", "Did you mean 'efficientnet_b0'"),
        ("?", "See timm"),
    ],
)
def test_an_unknown_architecture_suggests_the_nearest(architecture: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=hint):
        build_backbone(recipe_of(architecture))


@pytest.mark.parametrize("architecture", ["test_vit", "test_maxvit"])
def test_a_size_that_the_architecture_cannot_take_is_a_sentence(architecture: str) -> None:
    with pytest.raises(RecipeError, match=rf"'{architecture}' cannot take 70 px images .* another size_px"):
        build_backbone(recipe_of(architecture, 70))


@pytest.fixture
def resnet_weights(tmp_path: Path) -> Path:
    """Weights of 1000 classes under timm's names, as a download would be."""
    torch.manual_seed(7)
    path = tmp_path / "resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


def test_local_weights_replace_all_but_the_classifier(resnet_weights: Path) -> None:
    torch.manual_seed(8)
    backbone = build_backbone(recipe_of("test_resnet", pretrained=True), resnet_weights)
    stored, own = load_file(resnet_weights), backbone.state_dict()
    assert own["fc.weight"].shape[0] == 2
    rest = [name for name in own if not name.startswith("fc.")]
    assert len(rest) > 20
    assert all(torch.equal(own[name], stored[name]) for name in rest)


def test_weights_are_left_alone_when_the_recipe_wants_none(resnet_weights: Path) -> None:
    backbone = build_backbone(recipe_of("test_resnet", pretrained=False), resnet_weights)
    stored = load_file(resnet_weights)
    assert not torch.equal(backbone.state_dict()["conv1.0.weight"], stored["conv1.0.weight"])


@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_vit", "test_convnext"])
def test_weights_of_another_architecture_are_refused(architecture: str, resnet_weights: Path) -> None:
    with pytest.raises(RecipeError, match=rf"'resnet.safetensors' is not for {architecture}"):
        build_backbone(recipe_of(architecture, pretrained=True), resnet_weights)


def test_weights_that_lack_one_tensor_are_refused_by_its_name(resnet_weights: Path) -> None:
    state = load_file(resnet_weights)
    del state["layer1.0.conv1.weight"]
    save_file(state, resnet_weights)
    with pytest.raises(RecipeError, match=r"layer1\.0\.conv1\.weight is missing or differs"):
        build_backbone(recipe_of("test_resnet", pretrained=True), resnet_weights)


def test_weights_of_a_deeper_sibling_are_refused(tmp_path: Path) -> None:
    """It has every tensor of the smaller one, in the same shape."""
    path = tmp_path / "lite1.safetensors"
    state = timm.create_model("tf_efficientnet_lite1").state_dict()
    save_file(state, path)
    small = build_backbone(recipe_of("tf_efficientnet_lite0")).state_dict()
    assert all(small[name].shape == state[name].shape for name in small if not name.startswith("classifier."))
    with pytest.raises(
        RecipeError, match=r"is not for tf_efficientnet_lite0: it has blocks\.\S+ beside\. Give"
    ):
        build_backbone(recipe_of("tf_efficientnet_lite0", pretrained=True), path)


@pytest.mark.parametrize("content", [b"", b"no weights at all"])
def test_a_file_that_holds_no_weights_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"weights.safetensors' is no safetensors file"):
        build_backbone(recipe_of("test_resnet", pretrained=True), path)


def test_a_vision_transformers_weights_are_brought_to_another_image_size(tmp_path: Path) -> None:
    torch.manual_seed(7)
    path = tmp_path / "vit.safetensors"
    state = timm.create_model("test_vit").state_dict()
    save_file(state, path)
    backbone = build_backbone(recipe_of("test_vit", 64, pretrained=True), path)
    own = backbone.state_dict()
    assert own["pos_embed"].shape != state["pos_embed"].shape
    same = [name for name in own if name != "pos_embed" and not name.startswith("head.")]
    assert all(torch.equal(own[name], state[name]) for name in same)
    other = build_backbone(recipe_of("test_vit", 64, pretrained=True), path)
    assert torch.equal(own["pos_embed"], other.state_dict()["pos_embed"])  # not left at random


def test_imagenet_weights_load_from_a_local_file(imagenet_weights: Path) -> None:
    recipe = recipe_of("tf_efficientnet_lite0", 96, pretrained=True)
    own, stored = build_backbone(recipe, imagenet_weights).state_dict(), load_file(imagenet_weights)
    assert own["classifier.weight"].shape[0] == 2
    assert torch.equal(own["conv_stem.weight"], stored["conv_stem.weight"])
    assert torch.equal(own["bn2.running_var"], stored["bn2.running_var"])


class Corner(torch.nn.Module):
    """Answers with the colour of the upper left pixel, so that each view has its own answer."""

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        return planes[:, :2, 0, 0]


@pytest.mark.parametrize("names", [("identity",), ("vflip", "identity"), tuple(VIEWS)])
def test_the_mean_over_views_is_that_of_probabilities_of_flipped_pictures(names: tuple[str, ...]) -> None:
    network = FundusNetwork(Corner(), Normalise((0.5,) * 3, (0.25,) * 3))
    pixels = pixels_of(5, 16)
    corners = {"identity": (0, 0), "hflip": (0, -1), "vflip": (-1, 0), "both": (-1, -1)}
    logits = [(pixels[(slice(None), *corners[name], slice(2))] / 255.0 - 0.5) / 0.25 for name in names]
    expected = torch.stack(logits).sigmoid().mean(0)
    found = mean_probability(network, pixels, tuple(VIEWS[name] for name in names))
    assert (found.shape, found.dtype) == ((5, 2), torch.float32)
    assert torch.allclose(found, expected, atol=1e-6)


def test_dropout_of_the_recipe_reaches_the_backbone() -> None:
    recipe = recipe_of("test_resnet")
    dropping = replace(recipe, network=replace(recipe.network, dropout=0.7))
    assert (build_backbone(recipe).drop_rate, build_backbone(dropping).drop_rate) == (0.2, 0.7)
