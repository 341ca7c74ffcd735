"""The Dockerfiles, without a Docker engine: linted, and their Python part run in a clean environment."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from tests.conftest import COMMANDS
from tests.docker.conftest import ROOT

DOCKERFILES = sorted((ROOT / "docker").glob("*/Dockerfile"))
NO_PYTHON_CACHES = shutil.ignore_patterns("__pycache__")


def install_command(image: str) -> str:
    """Return the shell command by which an image installs this package from /src."""
    text = (ROOT / "docker" / image / "Dockerfile").read_text().replace("\\\n", " ")
    runs = re.findall(r"^RUN (?:--\S+ +)*(.*)$", text, re.MULTILINE)
    [found] = [part for line in runs for part in line.split("&&") if "/src" in part]
    return " ".join(found.split())


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `.dockerignore` lets into a build."""
    folder = tmp_path_factory.mktemp("context")
    for name in re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=NO_PYTHON_CACHES)
        else:
            shutil.copy(source, target)
    return folder


@pytest.fixture(scope="module")
def installed(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/opt/fundus of the server's image, installed by its own RUN line."""
    folder = tmp_path_factory.mktemp("image")
    venv.create(folder / "python", with_pip=False, symlinks=True)
    python3, *arguments = shlex.split(install_command("server"))
    assert [python3, *arguments[:3]] == ["python3", "-m", "pip", "install"]
    places = {"/opt/fundus": str(folder / "fundus"), "/src": str(context)}
    places["/src/constraints.txt"] = str(context / "constraints.txt")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "python"), "install"]
    done = subprocess.run(
        [*pip, *(places.get(x, x) for x in arguments[3:])], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "fundus"


def run(installed: Path, *line: str) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing of this environment's packages."""
    python = installed.with_name("python") / "bin"
    environment = {"PATH": f"{installed / 'bin'}{os.pathsep}{python}", "PYTHONPATH": str(installed)}
    program = shutil.which(line[0], path=environment["PATH"])
    assert program, f"{line[0]} is not in the image"
    return subprocess.run([program, *line[1:]], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    done = subprocess.run([COMMANDS / "hadolint", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_no_image_runs_as_root(path: Path) -> None:
    assert re.findall(r"^USER (.+)$", path.read_text(), re.MULTILINE) == ["1000:1000"]


def test_there_are_three_images() -> None:
    assert [path.parent.name for path in DOCKERFILES] == ["client", "server", "train"]


def test_the_version_of_triton_is_written_once() -> None:
    ours = [*(ROOT / "docker").rglob("*"), *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    texts = "\n".join(path.read_text() for path in ours if path.is_file())
    [version] = re.findall(r"^ARG TRITON_VERSION=(\d\d\.\d\d)$", texts, re.MULTILINE)
    assert texts.count(version) == 1
    assert re.findall(r"tritonserver:\S+", texts) == ["tritonserver:${TRITON_VERSION}-py3"]


@pytest.mark.parametrize("name", ["fundus-client", "fundus-export"])
def test_the_server_has_its_commands(installed: Path, name: str) -> None:
    done = run(installed, name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: {name}" in done.stdout


def test_the_server_can_preprocess_and_check(installed: Path, tiny_repository: Path) -> None:
    assert run(installed, "python3", "-c", "import fundus_core.backend").returncode == 0
    done = run(installed, "fundus-export", "check", str(tiny_repository))
    assert done.returncode == 0, done.stderr


def test_the_light_install_brings_no_network_library(installed: Path) -> None:
    found = {path.name for path in installed.iterdir()}
    assert {"cv2", "numpy", "tritonclient"} <= found
    assert not {"torch", "torchvision", "timm", "onnx", "onnxruntime"} & found


def test_all_images_install_alike() -> None:
    plain = install_command("server").replace(" --target /opt/fundus", "").removesuffix("/src")
    assert install_command("client") == f"{plain}'/src[pacs]'"
    assert install_command("train") == f"{plain}'/src[export]'"


def test_the_server_keeps_the_backends_that_it_needs(tmp_path: Path) -> None:
    for name in ("dali", "identity", "onnxruntime", "openvino", "python", "pytorch", "tensorrt"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "library.so").touch()
    dockerfile = (ROOT / "docker/server/Dockerfile").read_text()
    found = re.search(r"^RUN (find .*? \+) ", dockerfile.replace("\\\n", ""), re.MULTILINE)
    assert found
    line = shlex.split(found[1].replace("/opt/tritonserver/backends", str(tmp_path)))
    subprocess.run(line, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"onnxruntime", "python", "tensorrt"}
