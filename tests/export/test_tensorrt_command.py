"""`fundus-export tensorrt`, with the real builder of TensorRT-RTX."""

import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.bundles import content
from tests.export.conftest import onnx_of

from fundus_core.console import FundusGroup
from fundus_core.serving import SERVING, Serving, serving_json
from fundus_export.commands.tensorrt import tensorrt
from fundus_export.plans import read_record

trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx extra")


@pytest.fixture
def repository(planless: Path, tmp_path: Path) -> Path:
    """A fresh copy of `planless`."""
    return Path(shutil.copytree(planless, tmp_path / "repository"))


def run(*arguments: object) -> Result:
    group = FundusGroup(commands=[tensorrt])
    return CliRunner().invoke(group, ["tensorrt", *map(str, arguments)])


def test_the_command_checks_without_a_gpu(repository: Path) -> None:
    before = content(repository)
    done = run(repository, "--backend", "tensorrt_rtx")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        f"fold {index}: parses, is strongly typed, fits its profile" for index in range(2)
    ]
    assert content(repository) == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_builds_what_the_server_serves(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX stands in for TensorRT: the same calls, the timing cache included."""
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    (repository / SERVING).write_text(serving_json(Serving(max_batch=4, preferred_batches=(4,))))
    first, second = run(repository, "--opt-batch", "2"), run(repository, "--opt-batch", "2")
    assert [first.exit_code, second.exit_code] == [0, 0]
    assert "fold 1: building, because there is no plan yet" in first.stderr
    assert second.stderr.count("its plan is up to date") == 2
    assert "--model-config-name tensorrt" in second.stderr
    record = read_record(onnx_of(repository, 0).with_name("model.plan"))
    assert [shape[0] for shape in record.profile.shapes] == [1, 2, 4]
    assert record.toolchain.backend == "tensorrt"
    (cache,) = repository.glob("timing*")
    assert cache.name.startswith(f"timing-{trt.__version__}")
    assert cache.suffix == ".cache"
    assert not list(repository.rglob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "exit_code", "reason"),
    [
        ((), 2, "pip install 'fundus-triton[tensorrt]'"),
        (("--opt-batch", 9, "--backend", "tensorrt_rtx"), 2, "opt (9, 64, 64, 3) max (8, 64, 64, 3)"),
        (("--opt-batch", 0), 2, "0 is not in the range"),
        (("--backend", "openvino"), 2, "'openvino' is not one of 'tensorrt', 'tensorrt_rtx'"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: tuple[object, ...],
    exit_code: int,
    reason: str,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    done = run(repository, *arguments)
    assert done.exit_code == exit_code
    assert reason in done.stderr
    assert done.stdout == ""


def test_the_command_refuses_a_folder_that_is_no_repository(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.exit_code == 1
    assert "has no readable manifest.json" in done.stderr
