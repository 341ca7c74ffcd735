"""`EnsembleSpec` -> the Triton configs of its models. Nothing in a config is written by hand."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from fundus_core.ensemble import (
    AVERAGE_MODEL,
    DIGEST_PARAMETER,
    ENSEMBLE_MODEL,
    FOLD_PROBABILITY,
    IMAGE,
    MANIFEST_PARAMETER,
    PIXELS,
    PREPROCESS_MODEL,
    PROBABILITY,
    EnsembleSpec,
    fold_model,
)

CONFIG = "config.pbtxt"
EMBEDDED_CONFIG = "configs/embedded.pbtxt"

MAX_BATCH = 8
MAX_QUEUED = 512  # a full queue answers "try again" instead of growing

HEADER = "# Rendered from manifest.json by `fundus-export repository`; changes are lost at the next export.\n"


def render_configs(spec: EnsembleSpec) -> Iterator[tuple[str, str]]:
    """Yield (path in the repository, text) of every config."""
    yield f"{ENSEMBLE_MODEL}/{CONFIG}", _text(_ensemble(spec))
    yield f"{PREPROCESS_MODEL}/{CONFIG}", _text(_preprocess(spec))
    for model in (*(_fold(spec, fold.index) for fold in spec.folds), _average(spec)):
        yield f"{model.name}/{CONFIG}", _text(_on_onnxruntime(model))
        yield f"{model.name}/{EMBEDDED_CONFIG}", _text(_on_python(model, len(spec.folds)))


def _text(config: triton.ModelConfig) -> str:
    return HEADER + str(text_format.MessageToString(config))


def _model(name: str) -> triton.ModelConfig:
    return triton.ModelConfig(name=name, max_batch_size=MAX_BATCH)


def _batched(name: str) -> triton.ModelConfig:
    config = _model(name)
    config.dynamic_batching.SetInParent()
    return config


def _parameters(config: triton.ModelConfig, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        config.parameters[name].string_value = value


def _tensors(config: triton.ModelConfig, spec: EnsembleSpec, inputs: list[str], outputs: list[str]) -> None:
    """Add tensors by name; a name that is none of the ensemble's own is one fold's probability."""
    n_labels, size = len(spec.labels), spec.preprocess.size_px
    shapes = {
        IMAGE: (triton.TYPE_STRING, [1]),
        PIXELS: (triton.TYPE_UINT8, [size, size, 3]),
        FOLD_PROBABILITY: (triton.TYPE_FP32, [len(spec.folds), n_labels]),
    }
    for names, tensors in ((inputs, config.input), (outputs, config.output)):
        for name in names:
            data_type, dims = shapes.get(name, (triton.TYPE_FP32, [n_labels]))
            tensors.add(name=name, data_type=data_type, dims=dims)


def _preprocess(spec: EnsembleSpec) -> triton.ModelConfig:
    config = _model(PREPROCESS_MODEL)
    # Only here: tritonserver loses requests when the queue of a later model of an ensemble is full.
    config.dynamic_batching.default_queue_policy.max_queue_size = MAX_QUEUED
    config.backend = "python"
    config.instance_group.add(count=1, kind=triton.ModelInstanceGroup.KIND_CPU)
    _parameters(config, {"preprocess": json.dumps(asdict(spec.preprocess))})
    _tensors(config, spec, [IMAGE], [PIXELS])
    return config


def _fold(spec: EnsembleSpec, index: int) -> triton.ModelConfig:
    config = _batched(fold_model(index))
    _tensors(config, spec, [PIXELS], [PROBABILITY])
    return config


def _average(spec: EnsembleSpec) -> triton.ModelConfig:
    config = _batched(AVERAGE_MODEL)
    _tensors(config, spec, [fold_model(fold.index) for fold in spec.folds], [PROBABILITY, FOLD_PROBABILITY])
    return config


def _on_onnxruntime(model: triton.ModelConfig) -> triton.ModelConfig:
    config = triton.ModelConfig()
    config.CopyFrom(model)
    config.backend = "onnxruntime"
    return config


def _on_python(model: triton.ModelConfig, n_folds: int) -> triton.ModelConfig:
    config = triton.ModelConfig()
    config.CopyFrom(model)
    config.backend = "python"
    config.instance_group.add(count=1, kind=triton.ModelInstanceGroup.KIND_CPU)
    _parameters(config, {"models_sharing_cores": str(n_folds)})
    return config


def _ensemble(spec: EnsembleSpec) -> triton.ModelConfig:
    config = _model(ENSEMBLE_MODEL)
    config.platform = "ensemble"
    _parameters(config, {MANIFEST_PARAMETER: spec.to_json(), DIGEST_PARAMETER: spec.digest})
    _tensors(config, spec, [IMAGE], [PROBABILITY, FOLD_PROBABILITY])
    folds = [fold_model(fold.index) for fold in spec.folds]
    _step(config, PREPROCESS_MODEL, {IMAGE: IMAGE}, {PIXELS: PIXELS})
    for fold in folds:
        _step(config, fold, {PIXELS: PIXELS}, {PROBABILITY: fold})
    outputs = {PROBABILITY: PROBABILITY, FOLD_PROBABILITY: FOLD_PROBABILITY}
    _step(config, AVERAGE_MODEL, {fold: fold for fold in folds}, outputs)
    return config


def _step(
    config: triton.ModelConfig, model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> None:
    config.ensemble_scheduling.step.add(
        model_name=model, model_version=-1, input_map=inputs, output_map=outputs
    )
