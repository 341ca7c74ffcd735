"""`EnsembleSpec` and `Serving` -> every file of a model repository that holds no weights.

Nothing in such a file is written by hand, so that a repository can be checked by rendering it again.

    config.pbtxt                        the onnxruntime backend: on GPUs where there are any, else on `cores`
    configs/embedded.pbtxt              the Python backend alone, as in the server of the PyPI wheel
    configs/tensorrt.pbtxt              plans that `fundus-export tensorrt` built on the serving machine
    configs/onnxruntime_tensorrt.pbtxt  the onnxruntime backend, which builds its own engines and caches them

`tritonserver --model-config-name NAME` chooses `configs/NAME.pbtxt`, and config.pbtxt where a model has none.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from fundus_core.adaptive import Adaptive, Stopping
from fundus_core.ensemble import (
    ADAPTIVE_MODEL,
    AT_ONCE,
    AVERAGE_MODEL,
    BUNDLE,
    DIGEST_PARAMETER,
    ENSEMBLE_MODEL,
    FOLD_PROBABILITY,
    IMAGE,
    MANIFEST_PARAMETER,
    PIXELS,
    PREPROCESS_MODEL,
    PROBABILITY,
    QUALITY,
    STOPPING_PARAMETER,
    EnsembleSpec,
    fold_model,
)
from fundus_core.quality import MEASURES
from fundus_core.serving import Serving

ANSWER = (PROBABILITY, FOLD_PROBABILITY, QUALITY, BUNDLE)
CONFIG = "config.pbtxt"
EMBEDDED = "embedded"
TENSORRT = "tensorrt"
ONNXRUNTIME_TENSORRT = "onnxruntime_tensorrt"
ENGINE_CACHE = "/tmp/fundus-engines"  # noqa: S108  inside the container, on its tmpfs or a volume

HEADER = (
    "# Rendered by `fundus-export` from manifest.json and serving.json; changes are lost at the next time.\n"
)
PREPROCESS_INSTANCES = 4  # where nobody knows the machine
ADAPTIVE_INSTANCES = 4  # each waits for the last image of its batch while the others work
MODEL_PY = {
    "PreprocessModel": "Answers `image` with `pixels` and more; the code is shared with training.",
    "OnnxModel": "Runs model.onnx in a server that has no onnxruntime backend (configs/embedded.pbtxt).",
    "AdaptiveModel": "Answers as the ensemble, with no more folds than a decision takes.",
}


def render(spec: EnsembleSpec, serving: Serving) -> dict[str, str]:
    """Return the text of every rendered file by its path in the repository; not of manifest.json."""
    return dict(_files(spec, serving))


def _files(spec: EnsembleSpec, serving: Serving) -> Iterator[tuple[str, str]]:
    yield from _runtimes(_bounded(spec, serving), {EMBEDDED: _ensemble(spec, serving)})
    yield f"{ENSEMBLE_MODEL}/1/.gitkeep", ""
    yield from _runtimes(_preprocess(spec, serving), {})
    yield f"{PREPROCESS_MODEL}/1/model.py", _model_py("PreprocessModel")
    if spec.adaptive:
        yield from _runtimes(_adaptive(spec, serving, spec.adaptive), {})
        yield f"{ADAPTIVE_MODEL}/1/model.py", _model_py("AdaptiveModel")
    average = _average(spec, serving)
    yield from _runtimes(_averaging(average), {EMBEDDED: _on_python(average, serving, spec)})
    yield f"{AVERAGE_MODEL}/1/model.py", _model_py("OnnxModel")
    for fold in (_fold(spec, each.index, serving) for each in spec.folds):
        others = {
            EMBEDDED: _on_python(fold, serving, spec),
            TENSORRT: _warmed(_on_tensorrt(fold, serving), spec),
            ONNXRUNTIME_TENSORRT: _warmed(_with_engines(fold, serving), spec),
        }
        onnxruntime = _on_cores(fold, serving, spec) if serving.cores else _on_gpus(fold, serving)
        yield from _runtimes(_warmed(onnxruntime, spec), others)
        yield f"{fold.name}/1/model.py", _model_py("OnnxModel")


def _runtimes(
    config: triton.ModelConfig, others: Mapping[str, triton.ModelConfig]
) -> Iterator[tuple[str, str]]:
    yield f"{config.name}/{CONFIG}", text_of(config)
    for name, other in others.items():
        yield f"{config.name}/configs/{name}.pbtxt", text_of(other)


def text_of(config: triton.ModelConfig) -> str:
    """Return a config as a file of a repository has it."""
    return HEADER + str(text_format.MessageToString(config))


def config_of(text: str) -> triton.ModelConfig:
    """Return the config in a file; `text_format.ParseError` where it is none."""
    return text_format.Parse(text, triton.ModelConfig())


def _model_py(class_name: str) -> str:
    imported = f"from fundus_core.backend import {class_name} as TritonPythonModel\n"
    return f'"""{MODEL_PY[class_name]}"""\n\n{imported}'


def _model(name: str, serving: Serving) -> triton.ModelConfig:
    return triton.ModelConfig(name=name, max_batch_size=serving.max_batch)


def _copy(config: triton.ModelConfig, **changes: str) -> triton.ModelConfig:
    copy = triton.ModelConfig(**changes)
    copy.MergeFrom(config)
    return copy


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
        QUALITY: (triton.TYPE_FP32, [len(MEASURES)]),
        BUNDLE: (triton.TYPE_STRING, [1]),
    }
    for names, tensors in ((inputs, config.input), (outputs, config.output)):
        for name in names:
            data_type, dims = shapes.get(name, (triton.TYPE_FP32, [n_labels]))
            tensors.add(name=name, data_type=data_type, dims=dims)


def _first(name: str, serving: Serving, instances: int) -> triton.ModelConfig:
    """Return the config of a model in Python that takes images; only such models bound their queue."""
    config = _model(name, serving)
    # tritonserver 2.51 loses requests when the queue of a later model of an ensemble is full.
    policy = config.dynamic_batching.default_queue_policy
    policy.max_queue_size = serving.max_queued
    policy.timeout_action = triton.ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = serving.queue_timeout_s * 1_000_000
    config.backend = "python"
    config.instance_group.add(count=instances, kind=triton.ModelInstanceGroup.KIND_CPU)
    return config


def _adaptive(spec: EnsembleSpec, serving: Serving, adaptive: Adaptive) -> triton.ModelConfig:
    config = _first(ADAPTIVE_MODEL, serving, ADAPTIVE_INSTANCES)
    stopping = Stopping(adaptive.margin, spec.thresholds, len(spec.folds))
    _parameters(config, {STOPPING_PARAMETER: json.dumps(asdict(stopping)), DIGEST_PARAMETER: spec.digest})
    _tensors(config, spec, [IMAGE], list(ANSWER))
    return config


def _preprocess(spec: EnsembleSpec, serving: Serving) -> triton.ModelConfig:
    config = _first(PREPROCESS_MODEL, serving, serving.preprocess_instances or PREPROCESS_INSTANCES)
    _parameters(config, {"preprocess": json.dumps(asdict(spec.preprocess)), DIGEST_PARAMETER: spec.digest})
    _tensors(config, spec, [IMAGE], [PIXELS, QUALITY, BUNDLE])
    return config


def _fold(spec: EnsembleSpec, index: int, serving: Serving) -> triton.ModelConfig:
    config = _model(fold_model(index), serving)
    _tensors(config, spec, [PIXELS], [PROBABILITY])
    return config


def _average(spec: EnsembleSpec, serving: Serving) -> triton.ModelConfig:
    config = _model(AVERAGE_MODEL, serving)
    _tensors(config, spec, [fold_model(fold.index) for fold in spec.folds], [PROBABILITY, FOLD_PROBABILITY])
    return config


def _batched(config: triton.ModelConfig, serving: Serving) -> triton.ModelConfig:
    config.dynamic_batching.preferred_batch_size.extend(serving.preferred_batches)
    config.dynamic_batching.max_queue_delay_microseconds = serving.queue_delay_us
    config.instance_group.add(count=serving.fold_instances)
    return config


def _on_gpus(fold: triton.ModelConfig, serving: Serving) -> triton.ModelConfig:
    return _batched(_copy(fold, backend="onnxruntime"), serving)


def _on_cores(fold: triton.ModelConfig, serving: Serving, spec: EnsembleSpec) -> triton.ModelConfig:
    """Give a fold an instance for each of its cores, which takes one image at a time.

    Neither threads within an operator nor larger batches gain anything on a CPU: docs/performance.md.
    """
    return _on_one_thread(fold, math.ceil(serving.cores / len(spec.folds)))


def _averaging(average: triton.ModelConfig) -> triton.ModelConfig:
    config = _on_one_thread(average, 1)
    config.dynamic_batching.SetInParent()
    return config


def _on_one_thread(model: triton.ModelConfig, instances: int) -> triton.ModelConfig:
    config = _copy(model, backend="onnxruntime")
    config.instance_group.add(count=instances, kind=triton.ModelInstanceGroup.KIND_CPU)
    _parameters(config, {"intra_op_thread_count": "1"})
    return config


def _on_tensorrt(model: triton.ModelConfig, serving: Serving) -> triton.ModelConfig:
    config = _copy(model, platform="tensorrt_plan", default_model_filename="model.plan")
    return _batched(config, serving)


def _with_engines(fold: triton.ModelConfig, serving: Serving) -> triton.ModelConfig:
    config = _on_gpus(fold, serving)
    engines = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    cache = {"trt_engine_cache_enable": "true", "trt_engine_cache_path": ENGINE_CACHE}
    for name, value in cache.items():
        engines.parameters[name] = value
    return config


def _on_python(model: triton.ModelConfig, serving: Serving, spec: EnsembleSpec) -> triton.ModelConfig:
    config = _copy(model, backend="python")
    config.dynamic_batching.SetInParent()
    config.instance_group.add(count=1, kind=triton.ModelInstanceGroup.KIND_CPU)
    return _answering(config, max(1, math.ceil(serving.cores / len(spec.folds))))


def _answering(config: triton.ModelConfig, at_once: int) -> triton.ModelConfig:
    """Let the one process of a model answer so many requests at once."""
    _parameters(config, {AT_ONCE: str(at_once)})
    config.max_batch_size = max(config.max_batch_size, at_once)
    return config


def on_machine(text: str, serving: Serving, n_sharing: int) -> str:
    """Return a config for a server of the Python backend alone, on `serving.cores`.

    Args:
        text: of any model of a repository.
        serving: as `fitted` to the machine.
        n_sharing: folds that share the cores.
    """
    config = config_of(text)
    if config.name == PREPROCESS_MODEL:
        config.instance_group[0].count = serving.preprocess_instances
    elif AT_ONCE in config.parameters:
        _answering(config, math.ceil(serving.cores / n_sharing))
    return text_of(config)


def _warmed(config: triton.ModelConfig, spec: EnsembleSpec) -> triton.ModelConfig:
    """Answer noise before the first request comes: kernels are chosen and memory is taken by then."""
    size = spec.preprocess.size_px
    largest = config.max_batch_size if config.HasField("dynamic_batching") else 1
    for batch in sorted({1, largest}):
        sample = config.model_warmup.add(name=f"noise of {batch}", batch_size=batch)
        pixels = sample.inputs[PIXELS]
        pixels.data_type, pixels.random_data = triton.TYPE_UINT8, True
        pixels.dims.extend([size, size, 3])
    return config


def _ensemble(spec: EnsembleSpec, serving: Serving) -> triton.ModelConfig:
    config = _model(ENSEMBLE_MODEL, serving)
    config.platform = "ensemble"
    _parameters(config, {MANIFEST_PARAMETER: spec.to_json(), DIGEST_PARAMETER: spec.digest, **_summary(spec)})
    _tensors(config, spec, [IMAGE], list(ANSWER))
    folds = [fold_model(fold.index) for fold in spec.folds]
    seen = (PIXELS, QUALITY, BUNDLE)
    _step(config, PREPROCESS_MODEL, {IMAGE: IMAGE}, {name: name for name in seen})
    for fold in folds:
        _step(config, fold, {PIXELS: PIXELS}, {PROBABILITY: fold})
    outputs = {PROBABILITY: PROBABILITY, FOLD_PROBABILITY: FOLD_PROBABILITY}
    _step(config, AVERAGE_MODEL, {fold: fold for fold in folds}, outputs)
    return config


def _summary(spec: EnsembleSpec) -> dict[str, str]:
    """Return what a client in another language wants without reading the manifest."""
    thresholds = ",".join(map(str, spec.thresholds))
    return {"labels": ",".join(spec.labels), "thresholds": thresholds, "precision": spec.precision}


def _bounded(spec: EnsembleSpec, serving: Serving) -> triton.ModelConfig:
    """Bound the decoded images between the models; the wheel's tritonserver 2.51 doesn't know this yet."""
    config = _ensemble(spec, serving)
    config.ensemble_scheduling.max_inflight_requests = serving.max_inflight
    return config


def _step(
    config: triton.ModelConfig, model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> None:
    config.ensemble_scheduling.step.add(
        model_name=model, model_version=-1, input_map=inputs, output_map=outputs
    )
