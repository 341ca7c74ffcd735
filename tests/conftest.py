"""Fixtures: phantoms, a tiny ensemble made by the real commands, and the real photographs where they are."""

import importlib.util
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fundus_client.embedded import EmbeddedServer, embedded_server
from fundus_core.ensemble import EnsembleSpec, Fold, Normalise
from fundus_core.preprocess import PreprocessSpec
from fundus_eval.parity import LIMITS

SHARED = Path(__file__).resolve().parents[2] / "shared"
COMMANDS = Path(sys.executable).parent

TINY_RECIPE = """
name = "tiny"
[preprocess]
size_px = 64
[network]
architecture = "test_efficientnet"
pretrained = false
[split]
test_size = 0.3
folds = 2
[phantoms]
count = 4
[training]
epochs = 2
batch_size = 8
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the one way in which golden values change, and what the documents quote."""
    parser.addoption("--refresh-golden", action="store_true", help="write tests/golden/*.json anew")
    parser.addoption("--refresh-docs", action="store_true", help="write the help texts in docs/ anew")


def command(name: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run one of the four commands as a user does; `name` is "client", "train", "export" or "eval"."""
    line = [str(COMMANDS / f"fundus-{name}"), *map(str, arguments)]
    defaults = {"capture_output": True, "text": True, "timeout": 300, "errors": "surrogateescape"}
    return subprocess.run(line, **(defaults | options))  # type: ignore[call-overload,no-any-return]


def succeed(name: str, *arguments: object) -> str:
    """Run a command that must succeed; return its stdout."""
    done = command(name, *arguments)
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def files_up_to(n_bytes: int) -> Iterator[None]:
    """No file can grow beyond: what a full disk answers, to whoever runs the tests."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def bare_spec(n_folds: int) -> EnsembleSpec:
    """A valid spec of one label with no model behind it."""
    return EnsembleSpec(
        name="no model",
        version="1",
        labels=("glaucoma",),
        preprocess=PreprocessSpec(),
        normalise=Normalise((0.0,) * 3, (1.0,) * 3),
        views=("identity",),
        folds=tuple(Fold(index, "none", (None,)) for index in range(n_folds)),
        thresholds=(0.5,),
    )


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 synthetic phantoms with labels.csv."""
    folder = tmp_path_factory.mktemp("phantoms") / "phantoms"
    succeed("client", "sample", folder, "-n", 48)
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path) -> Path:
    """A finished training run of two tiny folds; its scores mean nothing."""
    pytest.importorskip("torch", reason="training needs the train extra")
    folder = tmp_path_factory.mktemp("training")
    recipe = folder / "tiny.toml"
    recipe.write_text(TINY_RECIPE)
    run = folder / "run"
    labels = phantom_folder / "labels.csv"
    succeed("train", "fit", recipe, "--data", labels, "--images", phantom_folder, "--output", run)
    return run


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Path:
    """The model repository of `tiny_run`."""
    repository = tmp_path_factory.mktemp("export") / "repository"
    succeed("export", "repository", tiny_run, repository)
    return repository


@pytest.fixture(scope="session")
def int8_repository(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path, phantom_folder: Path) -> Path:
    """`tiny_run` in 8 bits, with golden answers to the 48 phantoms too; of its AUC nothing is asked."""
    from fundus_export.repository import Wanted, export_repository

    repository = tmp_path_factory.mktemp("int8") / "repository"
    with pytest.MonkeyPatch.context() as patch:  # an AUC on a dozen phantoms means nothing
        patch.setitem(LIMITS, "int8", replace(LIMITS["int8"], auc_fall=1.0))
        export_repository(tiny_run, repository, Wanted(precision="int8", images=phantom_folder), print)
    return repository


@pytest.fixture(scope="session")
def server(tiny_repository: Path) -> Iterator[EmbeddedServer]:
    """The real tritonserver, serving the tiny ensemble."""
    if importlib.util.find_spec("pytriton") is None:
        pytest.skip("needs the extra `embedded`: the wheel's tritonserver")
    with embedded_server(tiny_repository) as running:
        yield running


@pytest.fixture(scope="session")
def imagenet_weights() -> Path:
    """ImageNet weights of tf_efficientnet_lite0; without them the test is skipped."""
    folder = Path(os.environ.get("FUNDUS_WEIGHTS", SHARED / "weights"))
    path = folder / "tf_efficientnet_lite0.in1k.safetensors"
    if not path.is_file():
        pytest.skip(f"no ImageNet weights at {path}; set FUNDUS_WEIGHTS to their folder")
    return path


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The folder of real labelled photographs; without it the test is skipped."""
    folder = Path(os.environ.get("FUNDUS_DATA", SHARED / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real photographs at {folder}; set FUNDUS_DATA to their folder")
    return folder
