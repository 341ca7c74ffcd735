import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tests.conftest import bare_spec
from tritonclient.grpc import model_config_pb2 as triton

from fundus_core.configs import on_machine, render
from fundus_core.errors import UsageError
from fundus_core.quality import Quality
from fundus_core.serving import SERVING, Serving, changed, fitted, read_serving, serving_json

SPEC = bare_spec(4)
EMBEDDED_FOLD = "fundus_fold_0/configs/embedded.pbtxt"


def config(path: str, **settings: Any) -> triton.ModelConfig:
    """Return one rendered config, as Triton reads it."""
    text = render(SPEC, changed(Serving(), settings))[path]
    return text_format.Parse(text, triton.ModelConfig())


def test_settings_read_back_are_the_same_and_their_absence_means_the_defaults(tmp_path: Path) -> None:
    assert read_serving(tmp_path) == Serving()
    serving = changed(Serving(), {"cores": 16, "preferred_batches": [2]})
    (tmp_path / SERVING).write_text(serving_json(serving))
    assert read_serving(tmp_path) == serving == Serving(cores=16, preferred_batches=(2,))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"max_bach": 4}, "unknown key 'max_bach'. Did you mean 'max_batch'"),
        ({"max_batch": 0}, "max_batch is 0; choose 1 or more"),
        ({"fold_instances": -1}, "fold_instances is -1"),
        ({"queue_delay_us": -1}, "queue_delay_us is -1; choose 0 or more"),
        ({"preferred_batches": [16]}, r"preferred_batches are \[16\]; choose sizes of 1 to 8"),
        ({"cores": "all"}, "expected a whole number, got 'all'"),
    ],
)
def test_an_impossible_setting_is_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        changed(Serving(), values)


def test_a_file_that_is_no_json_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / SERVING).write_text("max_batch: 4")
    with pytest.raises(UsageError, match=r"serving\.json of .* cannot be read .* Correct or remove it\."):
        read_serving(tmp_path)


def test_every_setting_reaches_a_config() -> None:
    plain = render(SPEC, Serving())
    others: dict[str, Any] = dict.fromkeys(asdict(Serving()), 1)
    others |= {"max_batch": 9, "preferred_batches": [3], "fold_instances": 2, "preprocess_instances": 2}
    others["cores"] = 8
    for name, value in others.items():
        assert render(SPEC, changed(Serving(), {name: value})) != plain, name


def test_a_full_queue_and_a_late_request_are_refused_at_the_door_alone() -> None:
    door = config("fundus_preprocess/config.pbtxt", max_queued=7, queue_timeout_s=3)
    policy = door.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (7, 3_000_000)
    assert policy.timeout_action == triton.ModelQueuePolicy.REJECT
    for path in (
        path for path in render(SPEC, Serving()) if path.endswith(".pbtxt") and "preprocess" not in path
    ):
        assert not config(path).dynamic_batching.HasField("default_queue_policy"), path


@pytest.mark.parametrize(("cores", "instances"), [(2, 1), (6, 2), (16, 4)])
def test_folds_on_a_cpu_share_its_cores(cores: int, instances: int) -> None:
    """By instances of one thread, without batches; what is for GPUs stays as it is."""
    fold = config("fundus_fold_0/config.pbtxt", cores=cores)
    (group,) = fold.instance_group
    assert (group.count, group.kind) == (instances, triton.ModelInstanceGroup.KIND_CPU)
    assert fold.parameters["intra_op_thread_count"].string_value == "1"
    assert not fold.HasField("dynamic_batching")
    for name in ("tensorrt", "onnxruntime_tensorrt"):
        path = f"fundus_fold_0/configs/{name}.pbtxt"
        assert config(path, cores=cores) == config(path)


@pytest.mark.parametrize(
    ("cores", "on_gpu", "processes", "sharing"),
    [(2, False, 2, 2), (8, True, 8, 0), (64, False, 16, 64)],
)
def test_what_is_left_to_the_machine_is_settled_by_its_cores_and_its_gpu(
    cores: int, on_gpu: bool, processes: int, sharing: int
) -> None:
    assert fitted(Serving(), cores, on_gpu) == Serving(preprocess_instances=processes, cores=sharing)
    said = Serving(preprocess_instances=3, cores=5)
    assert fitted(said, cores, on_gpu) == said


@pytest.mark.parametrize(
    ("cores", "n_sharing", "at_once", "batch"), [(2, 4, 1, 8), (7, 4, 2, 8), (7, 1, 7, 8), (64, 4, 16, 16)]
)
def test_where_python_runs_the_folds_they_share_the_cores_of_the_machine(
    cores: int, n_sharing: int, at_once: int, batch: int
) -> None:
    """One process each, which is given as many images as it answers at once."""
    serving = fitted(Serving(), cores, on_gpu=False)
    texts = render(SPEC, Serving())
    fold, door, plan = (
        text_format.Parse(on_machine(texts[path], serving, n_sharing), triton.ModelConfig())
        for path in (EMBEDDED_FOLD, "fundus_preprocess/config.pbtxt", "fundus_fold_0/config.pbtxt")
    )
    assert (fold.parameters["at_once"].string_value, fold.max_batch_size) == (str(at_once), batch)
    assert [group.count for group in (*fold.instance_group, *door.instance_group)] == [1, min(cores, 16)]
    assert plan == config("fundus_fold_0/config.pbtxt")


def test_a_container_whose_folds_run_in_python_shares_the_cores_that_it_was_fitted_to() -> None:
    assert config(EMBEDDED_FOLD, cores=16).parameters["at_once"].string_value == "4"
    assert config(EMBEDDED_FOLD).parameters["at_once"].string_value == "1"


def test_only_servers_that_know_it_are_told_how_many_images_may_wait_between_models() -> None:
    served = config("fundus_ensemble/config.pbtxt", max_inflight=9)
    assert served.ensemble_scheduling.max_inflight_requests == 9
    embedded = render(SPEC, Serving())["fundus_ensemble/configs/embedded.pbtxt"]
    assert "max_inflight_requests" not in embedded


@pytest.mark.parametrize("runtime", ["config", "configs/embedded"])
def test_every_answer_carries_its_quality_and_names_its_bundle(runtime: str) -> None:
    served = config(f"fundus_ensemble/{runtime}.pbtxt")
    shapes = {output.name: (output.data_type, list(output.dims)) for output in served.output}
    assert shapes["quality"] == (triton.TYPE_FP32, [len(fields(Quality))])
    assert shapes["bundle"] == (triton.TYPE_STRING, [1])
    door = config("fundus_preprocess/config.pbtxt")
    assert door.parameters["bundle_digest"].string_value == SPEC.digest


@pytest.mark.parametrize("runtime", ["config", "configs/tensorrt", "configs/onnxruntime_tensorrt"])
def test_folds_are_warm_before_the_first_request(runtime: str) -> None:
    fold = config(f"fundus_fold_0/{runtime}.pbtxt")
    assert [each.batch_size for each in fold.model_warmup] == [1, 8]
    for sample in fold.model_warmup:
        assert list(sample.inputs["pixels"].dims) == list(fold.input[0].dims)
        assert sample.inputs["pixels"].data_type == fold.input[0].data_type


def test_a_fold_on_cores_takes_one_image_at_a_time_and_is_warmed_with_one() -> None:
    rendered = render(SPEC, Serving(cores=4))["fundus_fold_0/config.pbtxt"]
    fold = text_format.Parse(rendered, triton.ModelConfig())
    assert not fold.HasField("dynamic_batching")
    assert [each.batch_size for each in fold.model_warmup] == [1]


def test_each_runtime_has_its_own_way_to_run_a_fold() -> None:
    assert config("fundus_fold_0/config.pbtxt").backend == "onnxruntime"
    assert config("fundus_fold_0/configs/embedded.pbtxt").backend == "python"
    plan = config("fundus_fold_0/configs/tensorrt.pbtxt")
    assert (plan.platform, plan.default_model_filename) == ("tensorrt_plan", "model.plan")
    cached = config("fundus_fold_0/configs/onnxruntime_tensorrt.pbtxt")
    (engines,) = cached.optimization.execution_accelerators.gpu_execution_accelerator
    assert (engines.name, engines.parameters["trt_engine_cache_enable"]) == ("tensorrt", "true")


def test_a_client_in_another_language_reads_labels_and_thresholds_without_the_manifest() -> None:
    parameters = config("fundus_ensemble/config.pbtxt").parameters
    found = {name: parameters[name].string_value for name in ("labels", "thresholds", "precision")}
    assert found == {"labels": "glaucoma", "thresholds": "0.5", "precision": "fp32"}
    assert json.loads(parameters["manifest"].string_value)["labels"] == ["glaucoma"]
