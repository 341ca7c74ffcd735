"""The real builder of TensorRT-RTX, on the CPU. That a plan answers rightly takes a GPU to see: untested."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.bundles import content
from tests.export.conftest import PROFILE, TWO_FOLDS, onnx_of

from fundus_core.errors import BundleError, UsageError
from fundus_core.preprocess import PreprocessSpec
from fundus_export import plans
from fundus_export.engine import EngineError, Profile
from fundus_export.plans import build_plans, check_graphs, fold_profile, read_record, stale_reason
from fundus_export.toolchain import Gpu, Toolchain, find_gpu, this_toolchain

trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx extra")


@pytest.fixture
def repository(planless: Path, tmp_path: Path) -> Path:
    """A fresh copy of `planless`."""
    return Path(shutil.copytree(planless, tmp_path / "repository"))


@pytest.fixture(scope="module")
def planned(planless: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose two folds have their plans."""
    folder = Path(shutil.copytree(planless, tmp_path_factory.mktemp("planned") / "repository"))
    built(folder)
    return folder


@pytest.fixture
def ready(planned: Path, tmp_path: Path) -> Path:
    """A fresh copy of `planned`."""
    return Path(shutil.copytree(planned, tmp_path / "ready"))


def nothing(fold: int, share: float) -> None:
    """Report to nobody."""


def built(
    repository: Path, profile: Profile = PROFILE, report: Callable[[int, float], None] = nothing
) -> list[str]:
    """Build plans; return what is said."""
    said: list[str] = []
    build_plans(repository, TWO_FOLDS, profile, "tensorrt_rtx", said.append, report)
    return said


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_each_fold_and_only_a_fold_gets_a_plan_and_its_record(repository: Path) -> None:
    before, shares = content(repository), []
    said = built(repository, report=lambda fold, share: shares.append((fold, share)))
    assert said == [f"fold {index}: building, because there is no plan yet" for index in range(2)]
    assert content(repository).keys() - before.keys() == {
        f"fundus_fold_{index}/1/{name}" for index in range(2) for name in ("model.plan", "model.plan.json")
    }
    assert shares == sorted(shares)
    assert [share for share in shares if share[1] == 1] == [(0, 1), (1, 1)]


def test_a_record_says_how_its_plan_was_made(planned: Path) -> None:
    onnx = onnx_of(planned, 1)
    plan = onnx.with_name("model.plan")
    record = json.loads(plan.with_name("model.plan.json").read_text())
    assert record.pop("seconds") > 0
    shapes = {f"{name}_shape": [batch, 64, 64, 3] for name, batch in (("min", 1), ("opt", 4), ("max", 8))}
    assert record == {
        "toolchain": asdict(this_toolchain("tensorrt_rtx")),
        "profile": {"tensor": "pixels", **shapes},
        "onnx_sha256": sha256(onnx),
        "plan_sha256": sha256(plan),
    }
    assert read_record(plan).profile == PROFILE


def test_a_second_call_builds_nothing(ready: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in ready.rglob("*")}
    assert built(ready) == ["fold 0: its plan is up to date", "fold 1: its plan is up to date"]
    assert {path: path.stat().st_mtime_ns for path in ready.rglob("*")} == before


def change_record(repository: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = onnx_of(repository, 1).with_name("model.plan.json")
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def made_by(repository: Path, **toolchain: object) -> None:
    change_record(repository, lambda record: record["toolchain"].update(toolchain))


def change_graph(repository: Path) -> None:
    model = onnx.load(onnx_of(repository, 1))
    model.graph.doc_string = "another"
    onnx.save(model, onnx_of(repository, 1))


def beside_onnx(repository: Path, name: str) -> Path:
    return onnx_of(repository, 1).with_name(name)


HERE, GPU = f"TensorRT-RTX {trt.__version__}", find_gpu() or "no GPU"
STALE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no plan": (lambda r: beside_onnx(r, "model.plan").unlink(), "there is no plan yet"),
    "no record": (lambda r: beside_onnx(r, "model.plan.json").unlink(), "has no readable record"),
    "not JSON": (lambda r: beside_onnx(r, "model.plan.json").write_text("{"), "has no readable record"),
    "other keys": (
        lambda r: change_record(r, lambda record: record.pop("profile")),
        "has no readable record (model.plan.json)",
    ),
    "version": (
        lambda r: made_by(r, version="1.6.0"),
        f"its plan was made by TensorRT-RTX 1.6.0 and this is {HERE}",
    ),
    "backend": (
        lambda r: made_by(r, backend="tensorrt", version="10.16"),
        f"its plan was made by TensorRT 10.16 and this is {HERE}",
    ),
    "gpu": (
        lambda r: made_by(r, gpu={"name": "NVIDIA L4", "compute_capability": "8.9"}),
        f"its plan was made on NVIDIA L4 (8.9) and this machine has {GPU}",
    ),
    "graph": (change_graph, "its plan was made from another model.onnx"),
    "profile": (
        lambda r: change_record(r, lambda record: record["profile"].update(opt_shape=[2, 64, 64, 3])),
        f"opt (2, 64, 64, 3) max (8, 64, 64, 3) and {PROFILE} is asked for",
    ),
    "plan": (
        lambda r: beside_onnx(r, "model.plan").write_bytes(b"cut off"),
        "its plan is not the one that model.plan.json describes",
    ),
}


@pytest.mark.parametrize("what", STALE)
def test_a_plan_that_does_not_fit_is_stale_and_is_built_again_alone(what: str, ready: Path) -> None:
    spoil, reason = STALE[what]
    spoil(ready)
    found = stale_reason(onnx_of(ready, 1), this_toolchain("tensorrt_rtx"), PROFILE)
    assert found is not None
    assert reason in found
    verb = "building" if what == "no plan" else "rebuilding"
    assert built(ready) == ["fold 0: its plan is up to date", f"fold 1: {verb}, because {found}"]
    assert stale_reason(onnx_of(ready, 1), this_toolchain("tensorrt_rtx"), PROFILE) is None


def test_another_gpu_than_that_of_the_record_makes_a_plan_stale(ready: Path) -> None:
    version, asked = trt.__version__, []
    for gpu in (Gpu("NVIDIA L4", "8.9"), Gpu("NVIDIA A10", "8.6")):
        asked.append(stale_reason(onnx_of(ready, 1), Toolchain("tensorrt_rtx", version, gpu), PROFILE))
        made_by(ready, gpu={"name": "NVIDIA L4", "compute_capability": "8.9"})
    assert asked == [
        f"its plan was made on {GPU} and this machine has NVIDIA L4 (8.9)",
        "its plan was made on NVIDIA L4 (8.9) and this machine has NVIDIA A10 (8.6)",
    ]


def test_an_interrupted_build_leaves_whole_plans_only_and_goes_on_where_it_stopped(repository: Path) -> None:
    def interrupt(fold: int, share: float) -> None:
        if fold == 1 and share > 0.5:
            raise KeyboardInterrupt

    before = content(repository)
    with pytest.raises(KeyboardInterrupt):
        built(repository, report=interrupt)
    made = content(repository).keys() - before.keys()
    assert made == {"fundus_fold_0/1/model.plan", "fundus_fold_0/1/model.plan.json"}
    assert built(repository) == [
        "fold 0: its plan is up to date",
        "fold 1: building, because there is no plan yet",
    ]


def test_a_plan_without_its_new_record_is_stale(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends between the two files: a plan beside an older record would not pass the check."""

    def killed(path: Path, content: bytes) -> None:
        raise KeyboardInterrupt

    change_graph(ready)
    monkeypatch.setattr(plans, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        built(ready)
    monkeypatch.undo()
    assert stale_reason(onnx_of(ready, 1), this_toolchain("tensorrt_rtx"), PROFILE) is not None
    assert [path.name for path in onnx_of(ready, 1).parent.glob("model.plan*")] == ["model.plan.json"]


def test_a_graph_that_cannot_be_built_leaves_the_plans_of_the_others(repository: Path) -> None:
    onnx_of(repository, 1).write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"fundus_fold_1/1/model.onnx': model deserialize failed"):
        built(repository)
    assert sorted(path.parts[-3] for path in repository.rglob("model.plan")) == ["fundus_fold_0"]


def test_a_fold_without_its_graph_is_refused(ready: Path) -> None:
    onnx_of(ready, 1).unlink()
    with pytest.raises(BundleError, match=r"fundus_fold_1/1/model.onnx' cannot be read \(No such file"):
        built(ready)


def test_a_repository_that_cannot_be_written_is_refused_before_anything_is_built(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    reported: list[float] = []
    with pytest.raises(UsageError, match=r"fundus_fold_0/1' cannot be written"):
        built(repository, report=lambda fold, share: reported.append(share))
    assert reported == []


def test_an_ensemble_of_integers_is_refused() -> None:
    with pytest.raises(UsageError, match=r"int8 is for CPUs.*--precision fp16"):
        fold_profile(replace(TWO_FOLDS, precision="int8"), 8, 8)


def test_a_profile_has_the_size_of_the_ensemble_and_a_free_batch() -> None:
    found = fold_profile(replace(TWO_FOLDS, preprocess=PreprocessSpec(size_px=512)), 4, 16)
    assert found == Profile("pixels", (1, 512, 512, 3), (4, 512, 512, 3), (16, 512, 512, 3))
    with pytest.raises(UsageError, match=r"opt \(32, 64, 64, 3\) max \(16, 64, 64, 3\)"):
        fold_profile(TWO_FOLDS, 32, 16)


def test_a_check_builds_every_fold_and_leaves_nothing(repository: Path) -> None:
    before, said = content(repository), []
    check_graphs(repository, TWO_FOLDS, PROFILE, "tensorrt_rtx", said.append, nothing)
    assert said == [f"fold {index}: parses, is strongly typed, fits its profile" for index in range(2)]
    assert content(repository) == before
