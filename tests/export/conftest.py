"""Folds of random weights whose answers differ from picture to picture, and their graphs, made once."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tests.conftest import bare_spec
from tests.export.bare import bundle

from fundus_core.ensemble import MODEL_ONNX, EnsembleSpec, Precision, fold_model, write_manifest
from fundus_core.preprocess import PreprocessSpec
from fundus_core.views import VIEWS, views_named
from fundus_export.engine import Profile
from fundus_export.graph import FoldWithViews
from fundus_export.onnx import save
from fundus_export.precision import fold_graph
from fundus_train.network import build_network
from fundus_train.recipe import Network, Recipe
from fundus_train.rounding import round_weights

SIZE_PX = 64
REPORT = (
    "efficientnet_b0",
    "efficientnet_b2",
    "efficientnet_b6",
    "resnext50_32x4d",
    "resnest50d",
    "deit_base_patch16_224",
)
LITE = tuple(f"tf_efficientnet_lite{size}" for size in range(5))
HALVED = (*(each for each in REPORT if each != "efficientnet_b6"), LITE[0])  # b6 is b2 with more of it
QUANTISED = (LITE[0], "resnest14d", "deit_tiny_patch16_224")  # small ones of the three kinds
TINY = ("test_efficientnet", "test_resnet", "test_vit")

SHAPE = (1, SIZE_PX, SIZE_PX, 3)
BATCHES = (SHAPE, (4, *SHAPE[1:]), (8, *SHAPE[1:]))
PROFILE = Profile("pixels", *BATCHES)
TWO_FOLDS = replace(bare_spec(2), preprocess=PreprocessSpec(size_px=SIZE_PX))

Exported = Callable[..., tuple[FoldWithViews, Path]]


def pictures(count: int = 7) -> np.ndarray:
    """Coloured clouds (N, S, S, 3): noise alone looks the same to a deep network in every picture."""
    clouds = np.random.default_rng(0).integers(0, 256, (count, 5, 5, 3), np.uint8)
    return np.stack([cv2.resize(each, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_CUBIC) for each in clouds])


def random_fold(
    architecture: str, rounded: bool = True, views: tuple[str, ...] = tuple(VIEWS)
) -> FoldWithViews:
    """Return a network of random weights whose normalisations have seen something."""
    torch.manual_seed(0)
    plan = Recipe("x", Network(architecture, pretrained=False), preprocess=PreprocessSpec(size_px=SIZE_PX))
    network = build_network(plan)
    pixels = torch.from_numpy(pictures())
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None  # the statistics of what it has seen, not a tenth of them
        network(torch.cat([pixels, pixels.flip(1)]))
        for norm in norms:  # a channel that never moved would explode at the first other picture
            norm.running_var.clamp_(min=float(norm.running_var.mean()) / 4)
        logits, classifier = network.eval()(pixels), network.backbone.get_classifier()
        classifier.bias.copy_((classifier.bias - logits.mean()) / (4 * logits.std()))
        classifier.weight /= 4 * logits.std()  # a new one is calm; these answers shall differ
    if rounded:
        round_weights(network, pixels[:1])
    return FoldWithViews(network, views_named(views)).eval()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A function that exports an architecture, once, and returns the module and the file."""
    made: dict[tuple[str, str, bool], tuple[FoldWithViews, Path]] = {}

    def export(
        architecture: str, precision: Precision = "fp32", rounded: bool = True
    ) -> tuple[FoldWithViews, Path]:
        key = architecture, precision, rounded
        if key not in made:
            module, path = random_fold(architecture, rounded), tmp_path_factory.mktemp("onnx") / "model.onnx"
            save(fold_graph(module.network, module.views, precision, pictures()), path)
            made[key] = module, path
        return made[key]

    return export


@pytest.fixture(scope="session")
def tiny(exported: Exported) -> Path:
    """The ONNX file of a tiny network."""
    return exported("test_efficientnet")[1]


@pytest.fixture(scope="session")
def planless(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What plans need of a repository: the manifest of `TWO_FOLDS`, and their graphs."""
    folder = tmp_path_factory.mktemp("plans") / "planless"
    for model in (fold_model(0), fold_model(1), "fundus_average"):
        (folder / model / MODEL_ONNX).parent.mkdir(parents=True)
        shutil.copyfile(tiny, folder / model / MODEL_ONNX)
    write_manifest(TWO_FOLDS, folder)
    return folder


def onnx_of(repository: Path, index: int) -> Path:
    return repository / fold_model(index) / MODEL_ONNX


@pytest.fixture
def specs(tmp_path: Path) -> list[EnsembleSpec]:
    """Three bundles in the folders 0, 1 and 2."""
    return [bundle(tmp_path / str(number), str(number)) for number in range(3)]
