"""One fold in the precision that is asked for: as float32, as float16, or as 8-bit integers."""

import contextlib
import copy
import io
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from fundus_core.ensemble import PIXELS, PROBABILITY, Precision
from fundus_core.preprocess import Pixels
from fundus_core.views import View
from fundus_export.graph import FoldWithViews
from fundus_export.onnx import store_as_float16, traced
from fundus_train.network import FundusNetwork
from fundus_train.rounding import fold_normalisations

LAYERS = ["Conv", "Gemm", "MatMul"]  # what costs
BETWEEN = ["Add", "Clip"]  # else each layer gives float32 to the next one, and that takes a fifth of the time
FIRST, LAST = 3, 2  # so many layers stay in float32: they cost little, and 8 bits there cost most accuracy


def fold_graph(
    network: FundusNetwork, views: tuple[View, ...], precision: Precision, calibration: Pixels
) -> onnx.ModelProto:
    """Return the graph `pixels` (N, S, S, 3) uint8 -> `probability` (N, K) float32, whatever lies between.

    - fp32: weights that training rounded are stored in 16 bits and computed with in float32.
    - fp16: weights and activations in float16; sigmoid and the mean of the views in float32. For GPUs.
    - int8: convolutions and matrix products in 8 bits, with ranges seen on `calibration`; for CPUs.

    Args:
        network: stays as it is.
        views: test-time views, averaged inside the graph.
        precision: see above.
        calibration: (M, S, S, 3) real preprocessed images that nothing is tested on; int8 only.
    """
    if precision == "fp16":
        folded = copy.deepcopy(network)
        fold_normalisations(folded, torch.from_numpy(calibration[:1]))
        return _trace(folded.half(), views, calibration)
    graph = _trace(network, views, calibration)
    if precision == "int8":
        return quantised(graph, calibration)
    store_as_float16(graph)
    return graph


def _trace(network: FundusNetwork, views: tuple[View, ...], pixels: Pixels) -> onnx.ModelProto:
    return traced(FoldWithViews(network, views), [torch.from_numpy(pixels[:2])], [PIXELS], [PROBABILITY])


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """Gives the images of the range that is asked for, one after the other."""

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels
        self.set_range(0, len(pixels))

    def __len__(self) -> int:
        return len(self._pixels)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._rest = iter(self._pixels[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        pixels = next(self._rest, None)
        return None if pixels is None else {PIXELS: pixels[None]}


def _ends(graph: onnx.ModelProto) -> list[str]:
    names = [node.name for node in graph.graph.node if node.op_type in LAYERS]
    return names[:FIRST] + names[-LAST:]


def quantised(graph: onnx.ModelProto, calibration: Pixels) -> onnx.ModelProto:
    """Return a float32 `graph` of a fold with its convolutions and matrix products in 8 bits."""
    with tempfile.TemporaryDirectory() as folder:
        whole, prepared, small = (Path(folder) / f"{name}.onnx" for name in ("whole", "prepared", "small"))
        onnx.save(graph, whole)
        quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its histograms
            quantize_static(
                str(prepared),
                str(small),
                _Images(calibration),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*LAYERS, *BETWEEN],
                nodes_to_exclude=_ends(onnx.load(prepared)),
                calibrate_method=CalibrationMethod.Percentile,  # a few outliers would take all 8 bits
                per_channel=True,
                reduce_range=True,  # 7-bit weights: 8 bits overflow on CPUs without VNNI
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"CalibStridedMinMax": 1},  # else it keeps every activation of every image
            )
        return onnx.load(small)
