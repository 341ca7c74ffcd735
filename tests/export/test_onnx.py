from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from fundus_core.preprocess import PreprocessSpec
from fundus_core.views import VIEWS, views_named
from fundus_export.graph import FoldAverage, FoldWithViews
from fundus_export.onnx import PARITY_LIMIT, ParityError, check_parity, export_graph
from fundus_train.network import build_network
from fundus_train.recipe import Network, Recipe
from fundus_train.rounding import round_weights

SIZE_PX = 64
FAMILIES = ("test_efficientnet", "test_resnet", "test_vit")
PIXELS = np.random.default_rng(0).integers(0, 256, (7, SIZE_PX, SIZE_PX, 3), np.uint8)

Exported = Callable[..., tuple[FoldWithViews, Path]]


def fold(architecture: str, rounded: bool = True, views: tuple[str, ...] = tuple(VIEWS)) -> FoldWithViews:
    """Return a network of random weights whose normalisations have seen something."""
    torch.manual_seed(0)
    plan = Recipe("x", Network(architecture, pretrained=False), preprocess=PreprocessSpec(size_px=SIZE_PX))
    network = build_network(plan)
    with torch.no_grad():
        network.backbone.get_classifier().weight *= 100  # a new one is calm; these answers shall differ
        for _ in range(3):
            network(torch.from_numpy(PIXELS))
    if rounded:
        round_weights(network, torch.from_numpy(PIXELS[:1]))
    return FoldWithViews(network, views_named(views)).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A function that exports an architecture, once, and returns the module and the file."""
    made: dict[tuple[str, bool], tuple[FoldWithViews, Path]] = {}

    def export(architecture: str, rounded: bool = True) -> tuple[FoldWithViews, Path]:
        if (architecture, rounded) not in made:
            module, path = fold(architecture, rounded), tmp_path_factory.mktemp("onnx") / "model.onnx"
            export_graph(module, [torch.from_numpy(PIXELS[:2])], ["pixels"], ["probability"], path)
            made[architecture, rounded] = module, path
        return made[architecture, rounded]

    return export


def answers(path: Path, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["probability"], {"pixels": pixels})[0]


@torch.inference_mode()
def expected(module: torch.nn.Module) -> np.ndarray:
    return module(torch.from_numpy(PIXELS)).numpy()


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_graph_answers_as_pytorch_does_in_batches_of_1_and_5(
    architecture: str, exported: Exported
) -> None:
    module, path = exported(architecture)
    parity = check_parity(module, path, PIXELS)
    assert (parity.n_images, parity.max_dp <= PARITY_LIMIT) == (7, True)
    wanted = expected(module)
    for size in (1, 5):
        assert np.abs(answers(path, PIXELS[:size]) - wanted[:size]).max() <= PARITY_LIMIT
    assert np.ptp(wanted) > 10 * PARITY_LIMIT  # different pictures do have different answers


def test_a_graph_has_the_served_tensors_and_a_free_batch_axis(exported: Exported) -> None:
    graph = onnx.load(exported("test_efficientnet")[1]).graph
    (pixels,), (probability,) = graph.input, graph.output
    assert (pixels.name, pixels.type.tensor_type.elem_type) == ("pixels", TensorProto.UINT8)
    assert (probability.name, probability.type.tensor_type.elem_type) == ("probability", TensorProto.FLOAT)
    batch, *rest = pixels.type.tensor_type.shape.dim
    assert [axis.dim_value for axis in rest] == [SIZE_PX, SIZE_PX, 3]
    answered, labels = probability.type.tensor_type.shape.dim
    assert batch.dim_param == answered.dim_param != ""
    assert labels.dim_value == 1


def test_all_views_are_averaged_inside_the_graph(exported: Exported) -> None:
    _, path = exported("test_efficientnet")
    flipped = [answers(path, np.flip(PIXELS, axes)) for axes in ((), (1,), (2,), (1, 2))]
    assert all(np.abs(each - flipped[0]).max() < 1e-5 for each in flipped)
    single = expected(fold("test_efficientnet", views=("identity",)))
    assert np.abs(single - flipped[0]).max() > 1e-4


def test_a_picture_has_the_same_answer_in_any_batch(exported: Exported) -> None:
    _, path = exported("test_efficientnet")
    alone = np.concatenate([answers(path, PIXELS[i : i + 1]) for i in range(len(PIXELS))])
    assert np.abs(answers(path, PIXELS) - alone).max() < 1e-6


def test_rounded_weights_halve_the_file_and_are_computed_with_in_float32(exported: Exported) -> None:
    _, half = exported("test_efficientnet")
    _, whole = exported("test_efficientnet", rounded=False)
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    graph = onnx.load(half).graph
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    assert len(halves) > 10
    casts = [node for node in graph.node if halves & set(node.input)]
    assert {node.op_type for node in casts} == {"Cast"}
    assert {attribute.i for node in casts for attribute in node.attribute} == {TensorProto.FLOAT}
    assert sum(len(node.input) for node in casts) == len(halves)


def test_weights_that_16_bits_would_change_stay_in_32(exported: Exported) -> None:
    tensors = onnx.load(exported("test_efficientnet", rounded=False)[1]).graph.initializer
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in tensors}


@pytest.mark.parametrize("architecture", FAMILIES)
def test_rounding_moves_answers_little_and_a_second_rounding_not_at_all(architecture: str) -> None:
    module, rounded = fold(architecture, rounded=False), fold(architecture)
    moved = np.abs(expected(module) - expected(rounded)).max()
    assert 0 < moved < 0.005
    once = expected(rounded)
    round_weights(rounded.network, torch.from_numpy(PIXELS[:1]))
    assert np.abs(expected(rounded) - once).max() < 0.01 * moved


def test_a_graph_says_nothing_about_the_machine_that_made_it(exported: Exported) -> None:
    content = exported("test_efficientnet")[1].read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parents[2]).encode() not in content


def with_head_times(path: Path, factor: float, folder: Path) -> Path:
    """Return a copy of the graph whose last weights are multiplied by `factor`."""
    model = onnx.load(path)
    (tensor,) = [
        each for each in model.graph.initializer if each.name.startswith("network.backbone.fc.weight")
    ]
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), tensor.name))
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"


@pytest.mark.parametrize("factor", [1.5, 0, np.nan])
def test_a_graph_with_a_changed_weight_fails_the_parity_check(
    factor: float, exported: Exported, tmp_path: Path
) -> None:
    module, path = exported("test_resnet")
    check_parity(module, with_head_times(path, 1, tmp_path), PIXELS)
    sentence = r"changed.onnx differs from PyTorch \(max \|dp\| .*limit 1e-04\)"
    with pytest.raises(ParityError, match=sentence):
        check_parity(module, with_head_times(path, factor, tmp_path), PIXELS)


def test_networks_that_agree_on_nothing_but_nan_fail_the_parity_check(
    exported: Exported, tmp_path: Path
) -> None:
    module = fold("test_resnet")
    with torch.no_grad():
        module.network.backbone.fc.weight.fill_(torch.nan)
    with pytest.raises(ParityError, match=r"max \|dp\| nan"):
        check_parity(module, with_head_times(exported("test_resnet")[1], np.nan, tmp_path), PIXELS)


def test_the_average_is_the_mean_of_the_folds_and_passes_them_on(tmp_path: Path) -> None:
    folds = np.random.default_rng(0).random((3, 5, 2), np.float32)
    path, names = tmp_path / "average.onnx", ["fundus_fold_0", "fundus_fold_1", "fundus_fold_2"]
    example = [torch.rand(2, 2) for _ in names]
    export_graph(FoldAverage(), example, names, ["probability", "fold_probability"], path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [tensor.name for tensor in session.get_inputs()] == names
    for size in (1, 5):
        feed = dict(zip(names, folds[:, :size], strict=True))
        mean, each = session.run(["probability", "fold_probability"], feed)
        assert np.allclose(mean, folds[:, :size].mean(0))
        assert np.array_equal(each, folds[:, :size].swapaxes(0, 1))
