"""What arithmetic alone would allow, for benchmarks/speed.py: the folds' operations, the cores' peak."""

import math
import time
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference
from speed_ensembles import FP32, TENSORS, Ensemble, Rows

PEAK = "arithmetic limit, fp32"
SIDE = 2048  # of the matrices whose product shows the peak
TRIES = 5
Shapes = dict[str, tuple[int, ...]]


def limit_rows(ensemble: Ensemble) -> Rows:
    """Return the images/s at which the folds would compute if all of it ran like a large matrix product."""
    flop = sum(ensemble.folds(FP32, flop_of))
    return {(PEAK, TENSORS): lambda: sgemm_flop_per_s() / flop}


def flop_of(path: Path) -> int:
    """Return the operations of one image in a fold: 2 for each multiplication and its addition.

    Convolutions and matrix products count, at the shapes of one photograph with all its views.
    """
    model = onnx.load(path)
    for tensor in model.graph.input:
        tensor.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]  # they tell of any batch
    inferred = SymbolicShapeInference.infer_shapes(model, auto_merge=True).graph  # ONNX's own loses the batch
    shapes = {each.name: _shape(each) for each in (*inferred.value_info, *inferred.input)}
    shapes |= {each.name: tuple(each.dims) for each in inferred.initializer}
    return sum(_flop(node, shapes) for node in inferred.node)


def _shape(tensor: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(each.dim_value for each in tensor.type.tensor_type.shape.dim)


def _flop(node: onnx.NodeProto, shapes: Shapes) -> int:
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    weights, out = shapes[node.input[1]], shapes[node.output[0]]
    if 0 in out:
        raise ValueError(f"The shape that {node.name} computes is not known: {out}.")
    if node.op_type == "Conv":
        return 2 * math.prod(out) * math.prod(weights[1:])
    # (..., M, K) x (K, N), which a Gemm may take transposed: each output sums K products
    return 2 * math.prod(out) * (math.prod(weights[-2:]) // out[-1])


def sgemm_flop_per_s() -> float:
    """Return the operations/s of the fastest of some products of float32 matrices on all cores."""
    left, right = np.random.default_rng(0).random((2, SIDE, SIDE), np.float32)
    fastest_s = math.inf
    for _ in range(TRIES):
        started = time.perf_counter()
        left @ right
        fastest_s = min(fastest_s, time.perf_counter() - started)
    return 2 * SIDE**3 / fastest_s
