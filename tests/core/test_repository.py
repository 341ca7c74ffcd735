import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tests.bundles import content
from tests.conftest import bare_spec
from tritonclient.grpc import model_config_pb2 as triton

from fundus_core.adaptive import Adaptive
from fundus_core.configs import render
from fundus_core.ensemble import EnsembleSpec, write_manifest
from fundus_core.errors import BundleError, UsageError
from fundus_core.repository import check_repository, digests, write_rendered, write_settings
from fundus_core.serving import SERVING, Serving, serving_json

WEIGHTS = "fundus_fold_0/1/model.onnx"
PLAN = "fundus_fold_0/1/model.plan"
COMPILED = "fundus_fold_0/1/__pycache__/model.cpython-311.pyc"


def made(folder: Path) -> EnsembleSpec:
    """Write a repository whose weights are no weights; return its spec."""
    (folder / WEIGHTS).parent.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(b"weights")
    spec = replace(bare_spec(1), files=digests(folder, iter([folder / WEIGHTS])))
    write_manifest(spec, folder)
    write_rendered(folder, spec, Serving())
    return spec


def test_what_was_written_passes(tmp_path: Path) -> None:
    assert made(tmp_path) == check_repository(tmp_path)


def with_plan(repository: Path) -> None:
    """Put a plan beside the weights, which is none, and the part of its record that is checked."""
    (repository / PLAN).write_text("plan")
    record = {"plan_sha256": hashlib.sha256(b"plan").hexdigest()}
    (repository / f"{PLAN}.json").write_text(json.dumps(record))


def with_compiled_python(repository: Path) -> None:
    (repository / COMPILED).parent.mkdir()
    (repository / COMPILED).write_text("made here")


def test_what_a_serving_machine_adds_passes(tmp_path: Path) -> None:
    spec = made(tmp_path)
    with_plan(tmp_path)
    for path in ("NOTICE.md", f"{PLAN}.partial", "timing-10.16-NVIDIA-L4.cache"):
        (tmp_path / path).write_text("made here")
    write_settings(tmp_path, spec, Serving(cores=4))
    assert check_repository(tmp_path, in_place=True) == spec


def test_compiled_python_passes_only_where_it_is_left_out(tmp_path: Path) -> None:
    spec = made(tmp_path)
    with_compiled_python(tmp_path)
    assert check_repository(tmp_path) == spec
    said = r"fundus_fold_0/1/__pycache__ holds compiled Python\. Delete the folders __pycache__: [^.]*\.$"
    with pytest.raises(BundleError, match=said):
        check_repository(tmp_path, in_place=True)


@pytest.mark.parametrize("model", ["fundus_ensemble", "fundus_fold_0", "fundus_average"])
def test_settings_that_cannot_be_written_change_nothing(model: str, tmp_path: Path) -> None:
    spec = made(tmp_path)
    before = content(tmp_path)
    (tmp_path / model / ".config.pbtxt.partial").mkdir()  # in the way
    with pytest.raises(IsADirectoryError):
        write_settings(tmp_path, spec, Serving(cores=8))
    assert content(tmp_path) == before


def test_only_an_ensemble_with_a_margin_has_the_adaptive_model(tmp_path: Path) -> None:
    plain = replace(bare_spec(2), thresholds=(0.3,))
    knowing = replace(plain, adaptive=Adaptive(0.7, 1, 1, 1.0, 0.0, 1.0, ((),)))
    more = render(knowing, Serving()).keys() - render(plain, Serving()).keys()
    assert more == {"fundus_adaptive/config.pbtxt", "fundus_adaptive/1/model.py"}
    config = text_format.Parse(
        render(knowing, Serving(max_queued=7))["fundus_adaptive/config.pbtxt"], triton.ModelConfig()
    )
    stopping = json.loads(config.parameters["stopping"].string_value)
    assert stopping == {"margin": 0.7, "thresholds": [0.3], "n_folds": 2}
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 7


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights": (lambda r: (r / WEIGHTS).write_bytes(b"Weights"), f"{WEIGHTS} was changed"),
    "weights gone": (lambda r: (r / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
    "code": (
        lambda r: (r / "fundus_average/1/model.py").open("a").write("import os\n"),
        "fundus_average/1/model.py was changed",
    ),
    "config": (
        lambda r: (r / "fundus_fold_0/config.pbtxt").open("a").write("# faster\n"),
        "fundus_fold_0/config.pbtxt was changed",
    ),
    "another version": (
        lambda r: [(r / "fundus_fold_0/2").mkdir(), (r / "fundus_fold_0/2/model.onnx").write_text("x")],
        "fundus_fold_0/2/model.onnx does not belong there",
    ),
    "another model": (
        lambda r: [(r / "mine").mkdir(), (r / "mine/config.pbtxt").write_text("")],
        "mine/config.pbtxt does not belong there",
    ),
    "link to a folder": (lambda r: (r / "more").symlink_to("/"), "more does not belong there"),
    "a model by the name of a text": (
        lambda r: (r / "NOTICE.md").symlink_to("/"),
        "NOTICE.md does not belong there",
    ),
    "code in a folder of compiled Python": (
        lambda r: [(r / COMPILED).mkdir(parents=True), (r / COMPILED / "model.py").touch()],
        f"{COMPILED}/model.py does not belong there",
    ),
    "plan": (
        lambda r: [with_plan(r), (r / PLAN).write_text("another")],
        f"{PLAN} was changed. Delete the plan, or run `fundus-export tensorrt`.",
    ),
    "plan of nobody": (
        lambda r: (r / PLAN).write_text("plan"),
        f"{PLAN} has no record of its build. Delete the plan, or run `fundus-export tensorrt`.",
    ),
    "plan of whatever": (
        lambda r: [with_plan(r), (r / f"{PLAN}.json").write_text("[]")],
        f"{PLAN} has no record of its build",
    ),
    "plan of no fold": (
        lambda r: [(r / "fundus_fold_7/1").mkdir(parents=True), (r / "fundus_fold_7/1/model.plan").touch()],
        "fundus_fold_7/1/model.plan does not belong there",
    ),
    "threshold": (
        lambda r: (r / "manifest.json").write_text((r / "manifest.json").read_text().replace("0.5", "0.4")),
        "fundus_ensemble/config.pbtxt was changed",
    ),
    "settings that were not rendered": (
        lambda r: (r / SERVING).write_text(serving_json(Serving(cores=8))),
        "run `fundus-export configs`",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_repository_that_was_changed_is_refused_by_name(change: str, tmp_path: Path) -> None:
    made(tmp_path)
    act, sentence = CHANGES[change]
    act(tmp_path)
    with pytest.raises(BundleError) as refused:
        check_repository(tmp_path)
    assert sentence in str(refused.value)


def test_many_changes_are_counted_not_listed(tmp_path: Path) -> None:
    made(tmp_path)
    for number in range(30):
        (tmp_path / f"extra-{number}.txt").touch()
    with pytest.raises(BundleError, match=r"extra-0\.txt .* and 25 more\."):
        check_repository(tmp_path)


def test_settings_with_an_unknown_key_are_a_usage_error(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "serving.json").write_text('{"core": 4}')
    with pytest.raises(UsageError, match="Did you mean 'cores'"):
        check_repository(tmp_path)
