"""What the light install may not bring, what the wheel holds, and what a missing extra says."""

import importlib.metadata
import json
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import bare_spec, command

from fundus_core.ensemble import write_manifest
from fundus_core.repository import write_rendered
from fundus_core.serving import Serving

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    *("torch", "torchvision", "timm", "lightning", "onnx", "onnxruntime", "sklearn", "pytriton"),
    *("fsspec", "s3fs", "botocore", "pyarrow", "ray", "pandas", "prometheus_client", "matplotlib", "jinja2"),
    *("pydicom", "pynetdicom", "highdicom", "dicomweb_client", "dicomanonymizer", "requests", "reportlab"),
)
PACKAGES = {"fundus_core", "fundus_train", "fundus_export", "fundus_client", "fundus_eval"}

# Runs at the start of every Python that finds it on PYTHONPATH: these packages are then not to be found.
BLOCKER = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec

def find_spec_but(name, path=None, target=None):
    return None if name.partition(".")[0] in {names!r} else find_spec(name, path, target)

PathFinder.find_spec = find_spec_but
"""


@pytest.mark.parametrize(
    "module", ["fundus_client.cli", "fundus_eval.cli", "fundus_train.cli", "fundus_export.cli"]
)
def test_importing_a_command_imports_nothing_heavy(module: str) -> None:
    code = f"import json, sys, fundus_core, {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert set(HEAVY).isdisjoint(json.loads(done.stdout))


def test_the_light_install_requires_nothing_heavy() -> None:
    requirements = importlib.metadata.requires("fundus-triton") or []
    base = [requirement for requirement in requirements if "extra ==" not in requirement]
    assert any(requirement.startswith("tritonclient[grpc]") for requirement in base)
    assert not [
        requirement for requirement in base if requirement.startswith((*HEAVY, "nvidia", "scikit-learn"))
    ]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="needs hatchling, which builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    line = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_five_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


def test_the_wheel_holds_the_reference_ensemble(wheel: Path) -> None:
    """File by file what the source tree has: a server that lacks one of them does not start."""
    if not (ROOT / "triton_models" / "manifest.json").exists():
        pytest.skip("the source tree has no reference ensemble yet")
    there = {path.relative_to(ROOT / "triton_models").as_posix() for path in _files(ROOT / "triton_models")}
    prefix = "fundus_client/triton_models/"
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.removeprefix(prefix) for name in names if name.startswith(prefix)} == there


def test_the_wheel_is_small_and_says_its_licence(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Name"] == "fundus-triton"
    assert wheel.stat().st_size < 60 * 2**20


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


@pytest.mark.parametrize(
    ("name", "absent", "extra"),
    [
        ("train", ("torch", "torchvision", "timm", "lightning"), "train"),
        ("train", ("timm",), "train"),
        ("export", ("torch", "onnx", "onnxruntime"), "export"),
        ("export", ("onnx",), "export"),
        ("client", ("pytriton",), "embedded"),
        ("dicom", ("pydicom",), "dicom"),
        ("pacs", ("pynetdicom",), "pacs"),
    ],
)
def test_a_missing_extra_is_a_sentence(
    tmp_path: Path, name: str, absent: tuple[str, ...], extra: str
) -> None:
    blocker = tmp_path / "blocker"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(BLOCKER.format(names=absent))
    room, *arguments = _arguments(tmp_path)[name]
    done = command(room, *arguments, env={"PYTHONPATH": str(blocker), "PATH": "/usr/bin:/bin"})
    assert done.returncode == 2, done.stderr
    assert f"pip install 'fundus-triton[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def _arguments(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Room and arguments of commands that are right up to the missing extra."""
    (folder / "labels.csv").write_text("image_id,glaucoma\na.jpg,1\n")
    (folder / "a.jpg").write_bytes(b"not read")
    recipe = '[network]\narchitecture = "test_efficientnet"\n'
    (folder / "recipe.toml").write_text(f'name = "tiny"\n{recipe}')
    (folder / "run").mkdir()
    fit = ("fit", folder / "recipe.toml", "--data", folder / "labels.csv", "--images", folder)
    (folder / "repository").mkdir()
    write_manifest(bare_spec(1), folder / "repository")
    write_rendered(folder / "repository", bare_spec(1), Serving())
    score = ("client", "score", "--repository", folder / "repository", "--output", folder / "s.csv")
    (folder / "a.dcm").write_bytes(bytes(128) + b"DICM")
    return {
        "train": ("train", *fit, "--output", folder / "new"),
        "export": ("export", "repository", folder / "run", folder / "new"),
        "client": (*score, folder / "a.jpg"),
        "dicom": (*score, folder / "a.dcm"),
        "pacs": ("client", "pacs", "send", folder, "--peer", "A@b:104"),
    }
