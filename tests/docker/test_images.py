"""The Dockerfiles, without a Docker engine: linted, and their Python part run in clean environments."""

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
from tests.docker.conftest import ENTRYPOINT, ROOT, write_command
from tests.integration.conftest import wait_for

from fundus_client.listener import free_port
from fundus_client.wheel import find_wheel
from fundus_core.ensemble import PREPROCESS_MODEL

DOCKERFILES = sorted((ROOT / "docker").glob("*/Dockerfile"))
NO_PYTHON_CACHES = shutil.ignore_patterns("__pycache__")


def part_of_run(image: str, word: str) -> str:
    """Return the one shell command among an image's RUN lines that has this word in it."""
    text = (ROOT / "docker" / image / "Dockerfile").read_text().replace("\\\n", " ")
    runs = re.findall(r"^RUN (?:--\S+ +)*(.*)$", text, re.MULTILINE)
    [found] = [part for line in runs for part in line.split("&&") if word in part]
    return " ".join(found.split())


def install_command(image: str) -> str:
    """Return the shell command by which an image installs this package from /src."""
    return part_of_run(image, "/src")


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


def install(image: str, context: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the line by which an image installs this package, in a clean environment, `folder`/python."""
    venv.create(folder / "python", with_pip=False, symlinks=True)
    python3, *arguments = shlex.split(install_command(image))
    assert [python3, *arguments[:3]] == ["python3", "-m", "pip", "install"]
    places = {"/opt/fundus": folder / "fundus", "/src": context}
    here = [re.sub("^(/opt/fundus|/src)", lambda found: str(places[found[0]]), x) for x in arguments[3:]]
    line = [sys.executable, "-m", "pip", "--python", str(folder / "python"), "install", *more, *here]
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def installed(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/opt/fundus of the server's image by its own RUN lines, for a Python that has a numpy already."""
    folder = tmp_path_factory.mktemp("image")
    install("server", context, folder)
    made_known = part_of_run("server", ".pth").replace("/opt/fundus", f"{folder}/fundus")
    subprocess.run(["/bin/sh", "-c", made_known], env={"PATH": f"{folder}/python/bin"}, check=True)
    (packages,) = (folder / "python" / "lib").glob("python*/site-packages")
    (packages / "numpy.py").write_text("raise ImportError('that of the image')")
    return folder / "fundus"


def search_path(installed: Path, *more: Path) -> str:
    """Return a PATH with nothing of this environment's commands."""
    return os.pathsep.join(map(str, [*more, installed / "bin", installed.with_name("python") / "bin"]))


def run(path: str, *line: object, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing of this environment's packages."""
    environment = {"PATH": path} | {name: str(value) for name, value in settings.items()}
    program = shutil.which(str(line[0]), path=path)
    assert program, f"{line[0]} is not in the image"
    return subprocess.run([program, *map(str, line[1:])], env=environment, capture_output=True, text=True)


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
    done = run(search_path(installed), name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: {name}" in done.stdout


def test_the_server_can_do_what_its_start_takes(
    installed: Path, tiny_repository: Path, tmp_path: Path
) -> None:
    for name in ("models", "tls", "bin"):
        (tmp_path / name).mkdir()
    write_command(tmp_path, "tritonserver", "#!/bin/sh\n")
    folders = {"FUNDUS_MODELS": tmp_path / "models", "FUNDUS_TLS": tmp_path / "tls"}
    path = search_path(installed, tmp_path / "bin") + os.pathsep + os.defpath
    done = run(path, str(ENTRYPOINT), FUNDUS_BUNDLE=tiny_repository, **folders)
    assert done.returncode == 0, done.stderr
    assert ": unchanged" in done.stdout


def test_an_isolated_python_finds_the_packages_before_those_of_the_image(installed: Path) -> None:
    done = run(search_path(installed), "python3", "-I", "-c", "import fundus_core.backend")
    assert done.returncode == 0, done.stderr


def test_the_python_backend_finds_the_packages(
    installed: Path, tiny_repository: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pytriton", reason="needs the extra `embedded`: the wheel's tritonserver")
    wheel, log = find_wheel(), tmp_path / "log"
    wheel.link_backend(tmp_path / "backends" / "python")
    shutil.copytree(tiny_repository / PREPROCESS_MODEL, tmp_path / "models" / PREPROCESS_MODEL)
    flags = {
        "model-repository": tmp_path / "models",
        "backend-directory": tmp_path / "backends",
        "backend-config": f"python,shm-region-prefix-name=image-{os.getpid()}",
        "http-address": "127.0.0.1",
        "http-port": free_port(),
        "allow-grpc": "false",
        "allow-metrics": "false",
    }
    line = [wheel.folder / "bin" / "tritonserver", *(f"--{name}={value}" for name, value in flags.items())]
    environment = wheel.environment() | {"PATH": search_path(installed) + os.pathsep + os.defpath}
    with (
        log.open("wb") as file,
        subprocess.Popen(line, env=environment, cwd=tmp_path, stdout=file, stderr=file) as server,
    ):
        try:
            wait_for(lambda: "Started HTTPService" in log.read_text() or server.poll() is not None)
            assert server.poll() is None, log.read_text()[-3000:]
        finally:
            server.terminate()


def test_the_light_install_brings_no_network_library(installed: Path) -> None:
    found = {path.name for path in installed.iterdir()}
    assert {"cv2", "numpy", "tritonclient"} <= found
    assert not {"torch", "torchvision", "timm", "onnx", "onnxruntime"} & found


def test_the_client_can_send_to_an_archive(installed: Path, context: Path, tmp_path: Path) -> None:
    install("client", context, tmp_path)
    line = ("fundus-client", "pacs", "send", tmp_path / "none", "--peer", "PACS@127.0.0.1:1")
    (tmp_path / "none").mkdir()
    done = run(f"{tmp_path}/python/bin", *line)
    assert (done.returncode, done.stderr) == (0, "")
    assert run(search_path(installed), *line).returncode == 2  # without the extra


def test_training_is_an_extra_of_this_package(context: Path, tmp_path: Path) -> None:
    # No more than that: torch for CUDA is gigabytes. `make test` installs the extra by the same constraints.
    done = install("train", context, tmp_path, "--dry-run", "--no-deps")
    assert "Would install fundus-triton" in done.stdout
    assert "does not provide the extra" not in done.stderr


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
