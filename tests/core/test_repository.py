import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tests.conftest import bare_spec
from tritonclient.grpc import model_config_pb2 as triton

from fundus_core.adaptive import Adaptive
from fundus_core.configs import render
from fundus_core.ensemble import EnsembleSpec, write_manifest
from fundus_core.errors import BundleError, UsageError
from fundus_core.repository import check_repository, digests, write_rendered
from fundus_core.serving import Serving, write_serving

WEIGHTS = "fundus_fold_0/1/model.onnx"


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


def test_what_a_serving_machine_adds_passes(tmp_path: Path) -> None:
    spec = made(tmp_path)
    for path in (
        "NOTICE.md",
        "fundus_fold_0/1/model.plan",
        "fundus_fold_0/1/model.plan.json",
        "fundus_fold_0/1/__pycache__/model.pyc",
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("made here")
    write_serving(Serving(cores=4), tmp_path)
    write_rendered(tmp_path, spec, Serving(cores=4))
    assert check_repository(tmp_path) == spec


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
    "threshold": (
        lambda r: (r / "manifest.json").write_text((r / "manifest.json").read_text().replace("0.5", "0.4")),
        "fundus_ensemble/config.pbtxt was changed",
    ),
    "settings that were not rendered": (
        lambda r: write_serving(Serving(cores=8), r),
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
