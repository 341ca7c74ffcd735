"""Other bundles than the exported one: its copies with a change, whose traces are covered."""

import shutil
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import numpy_helper

from fundus_core.ensemble import MODEL_ONNX, EnsembleSpec, fold_model, read_manifest, write_manifest
from fundus_core.repository import digests, write_rendered
from fundus_core.serving import Serving


def scaled(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """Multiply the classifier's weights."""
    name = next(node for node in model.graph.node if node.op_type == "Gemm").input[1].removesuffix("_float16")
    tensor = next(each for each in model.graph.initializer if each.name.startswith(name))
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), tensor.name))
    return model


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
