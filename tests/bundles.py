"""Other bundles than the exported one: its copies with a change, whose traces are covered."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fundus_core.ensemble import (
    MODEL_ONNX,
    PROBABILITY,
    EnsembleSpec,
    fold_model,
    read_manifest,
    write_manifest,
)
from fundus_core.repository import digests, write_rendered
from fundus_core.serving import Serving


def scaled(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """Multiply the classifier's weights."""
    name = next(node for node in model.graph.node if node.op_type == "Gemm").input[1].removesuffix("_float16")
    tensor = next(each for each in model.graph.initializer if each.name.startswith(name))
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), tensor.name))
    return model


def turned(model: onnx.ModelProto, nodes: list[onnx.NodeProto], **constants: object) -> onnx.ModelProto:
    """Let nodes make `probability` of what the graph has answered so far, which they know as `before`."""
    for node in model.graph.node:
        node.output[:] = ["before" if name == PROBABILITY else name for name in node.output]
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value), name) for name, value in constants.items()
    )
    model.graph.node.extend(nodes)
    return model


def squeezed(model: onnx.ModelProto, factor: float, offset: float) -> onnx.ModelProto:
    """Answer `factor` p + `offset`: no order changes, and so no AUC."""
    nodes = [
        helper.make_node("Mul", ["before", "factor"], ["less"]),
        helper.make_node("Add", ["less", "offset"], [PROBABILITY]),
    ]
    return turned(model, nodes, factor=np.float32(factor), offset=np.float32(offset))


def wrong_about_twins(model: onnx.ModelProto) -> onnx.ModelProto:
    """Answer 0.01 less to a picture that stands behind itself in a batch; right to all others."""
    nodes = [
        helper.make_node("Slice", ["before", "first", "last", "batch"], ["but_last"]),
        helper.make_node("Concat", ["nothing", "but_last"], ["one_earlier"], axis=0),
        helper.make_node("Equal", ["before", "one_earlier"], ["same"]),
        helper.make_node("Cast", ["same"], ["ones"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["ones", "error"], ["errors"]),
        helper.make_node("Sub", ["before", "errors"], [PROBABILITY]),
    ]
    places = {"first": [0], "last": [-1], "batch": [0]}
    return turned(model, nodes, **places, nothing=np.float32([[-1]]), error=np.float32(0.01))


def cover_traces(repository: Path, spec: EnsembleSpec) -> None:
    """Make a repository whose files were changed a bundle of its own."""
    spec = replace(spec, files=digests(repository, (repository / name for name in spec.files)))
    write_manifest(spec, repository)
    write_rendered(repository, spec, Serving())


def changed_copy(repository: Path, folder: Path, factor: float, centre_crop: float = 1.0) -> Path:
    """Copy a repository with other weights in each fold, and another preprocessing."""
    shutil.copytree(repository, folder)
    spec = read_manifest(folder)
    for fold in spec.folds:
        path = folder / fold_model(fold.index) / MODEL_ONNX
        onnx.save(scaled(onnx.load(path), factor), path)
    cover_traces(folder, replace(spec, preprocess=replace(spec.preprocess, centre_crop=centre_crop)))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Return what every file below a folder holds, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
