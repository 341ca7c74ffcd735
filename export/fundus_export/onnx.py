"""PyTorch -> ONNX with a dynamic batch, smaller weights, and the proof that the answers stayed the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from fundus_core.errors import FundusError
from fundus_core.preprocess import Pixels

OPSET = 20
PARITY_LIMIT = 1e-4
PARITY_BATCHES = (1, 5)
FOLDING_NOISE = 1e-6  # relative; folding and unfolding a normalisation in float32 loses this much
SMALL = 256  # tensors below this many values are not worth a cast


class ParityError(FundusError):
    """A graph that does not answer as PyTorch does."""


@dataclass(frozen=True)
class Parity:
    """Differences of probability between two runtimes on the same images."""

    n_images: int
    max_dp: float
    mean_dp: float

    def __str__(self) -> str:
        return f"max |dp| {self.max_dp:.1e}, mean |dp| {self.mean_dp:.1e} over {self.n_images} images"


def export_graph(
    module: nn.Module,
    example: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    path: Path,
) -> None:
    """Write `module` as ONNX to `path`; the first axis of every input and output is the free batch axis."""
    program = torch.onnx.export(
        module.eval(),
        tuple(example),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=_free_batch(example),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise FundusError("PyTorch returned no ONNX program; please report this.")
    graph = program.model_proto
    store_as_float16(graph)
    _drop_notes(graph)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)


def _free_batch(example: Sequence[Tensor]) -> tuple[Any, ...]:
    axes = tuple({0: torch.export.Dim("batch", min=1, max=4096)} for _ in example)
    return axes if len(example) == 1 else (axes,)  # forward(*folds) takes one tuple


def _drop_notes(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: stack traces with paths of this machine, in every node."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


def store_as_float16(model: onnx.ModelProto) -> None:
    """Halve the file: store weights that are half-precision numbers as such, and cast them inside the graph.

    The runtime folds the casts when it loads the model, so it still computes in float32. Training rounds
    weights for this (`fundus_train.rounding`); a tensor that would change stays in float32.
    """
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if not np.allclose(half, values, rtol=FOLDING_NOISE, atol=0):
            continue
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)


def check_parity(module: nn.Module, path: Path, pixels: Pixels) -> Parity:
    """Compare the ONNX file with `module` on `pixels` (N, S, S, 3), in batches of 1 and of 5.

    Raises:
        ParityError: a probability differs by more than `PARITY_LIMIT`.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = [_difference(module, session, pixels, size) for size in PARITY_BATCHES]
    difference = np.concatenate(differences)
    parity = Parity(len(pixels), float(difference.max()), float(difference.mean()))
    if not parity.max_dp <= PARITY_LIMIT:  # also where it is NaN
        hint = "Try another version of torch or onnxruntime, and report this."
        raise ParityError(f"{path} differs from PyTorch ({parity}; limit {PARITY_LIMIT:.0e}). {hint}")
    return parity


@torch.inference_mode()
def _difference(
    module: nn.Module, session: onnxruntime.InferenceSession, pixels: Pixels, size: int
) -> NDArray[np.float64]:
    name = session.get_inputs()[0].name
    batches = [pixels[start : start + size] for start in range(0, len(pixels), size)]
    differences = [
        np.abs(module(torch.from_numpy(batch)).numpy() - session.run(None, {name: batch})[0])
        for batch in batches
    ]
    return np.concatenate(differences, dtype=np.float64)
