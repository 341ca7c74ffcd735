"""PyTorch -> ONNX with a dynamic batch and smaller weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from fundus_core.errors import FundusError

OPSET = 20
FOLDING_NOISE = 1e-6  # relative; folding and unfolding a normalisation in float32 loses this much
SMALL = 256  # tensors below this many values are not worth a cast


def traced(
    module: nn.Module, example: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Return `module` as ONNX; the first axis of every input and output is the free batch axis."""
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
    graph: onnx.ModelProto = program.model_proto
    _drop_notes(graph)
    return graph


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model that passes ONNX's own checks."""
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


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
