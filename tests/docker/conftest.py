"""A container without its engine: folders for its volumes, and the wheel's tritonserver for the image's."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from tests.bundles import cover_traces
from tests.conftest import COMMANDS, succeed
from tests.integration.conftest import wait_for

from fundus_core.adaptive import Adaptive
from fundus_core.ensemble import read_manifest

ROOT = Path(__file__).resolve().parents[2]
ENTRYPOINT = ROOT / "docker" / "server" / "entrypoint.sh"
PROTOCOLS = ("http", "grpc", "metrics")
ADMIN_KEY = "a key+with/signs="
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
TRITONSERVER = """#!{python}
import os, sys
from pathlib import Path
from fundus_client.wheel import find_wheel

wheel, backend = find_wheel(), Path({backends!r}, "python")
if not backend.exists():
    wheel.link_backend(backend)
server = str(wheel.folder / "bin" / "tritonserver")
os.execve(server, ["tritonserver", *sys.argv[1:]], wheel.environment())
"""


@dataclass(frozen=True)
class Container:
    """What the image has: its volumes, its command and the ports of the server in it."""

    folder: Path
    ports: dict[str, int]

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def grpc_address(self) -> str:
        return f"localhost:{self.ports['grpc']}"

    def environment(self, **settings: str) -> dict[str, str]:
        folders = {f"FUNDUS_{name.upper()}": str(self.folder / name) for name in ("bundle", "models", "tls")}
        path = f"{self.folder / 'bin'}{os.pathsep}{COMMANDS}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, **folders, **settings}

    def arguments(self) -> list[str]:
        addresses = [f"--{name}-address=127.0.0.1" for name in self.ports]
        ports = [f"--{name}-port={port}" for name, port in self.ports.items()]
        backends = f"--backend-directory={self.folder / 'backends'}"
        return [str(ENTRYPOINT), "--model-config-name=embedded", backends, *addresses, *ports]

    def ended(self, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run an entrypoint that ends by itself."""
        options = {"capture_output": True, "text": True, "timeout": 60, "env": self.environment(**settings)}
        return subprocess.run(self.arguments(), **options)  # type: ignore[call-overload,no-any-return]

    @contextmanager
    def running(self, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        with (
            self.log.open("wb") as log,
            subprocess.Popen(
                self.arguments(), env=self.environment(**settings), stdout=log, stderr=log
            ) as process,
        ):
            try:
                wait_for(lambda: self.http("v2/health/ready")[0] == 200 or process.poll() is not None)
                assert process.poll() is None, self.log.read_text()[-3000:]
                yield process
            finally:
                process.terminate()
                process.wait(40)

    def http(self, path: str, protocol: str = "http", **headers: str) -> tuple[int, str]:
        """Return status and body of the answer; 0 where nobody listens."""
        url = f"http://127.0.0.1:{self.ports[protocol]}/{path}"
        try:
            answer = DIRECT.open(urllib.request.Request(url, headers=headers), timeout=5)
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""
        return int(answer.status), answer.read().decode()


def folds_per_image(container: Container) -> float:
    """Score two phantoms by `--adaptive`; return how many folds answered, as the run says it."""
    images, output = container.folder / "images", container.folder / "scores.csv"
    succeed("client", "sample", images, "--count", 2)
    succeed("client", "score", images, "--output", output, "--adaptive", "--url", container.grpc_address)
    return float(json.loads(output.with_name("run.json").read_text())["folds_per_image"])


def started_with(container: Container, **settings: str) -> list[str]:
    """Return the arguments that tritonserver is started with; it isn't."""
    write_command(container.folder, "tritonserver", '#!/bin/sh\necho tritonserver "$@"\n')
    done = container.ended(**settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def loaded(arguments: list[str]) -> set[str]:
    return {each.partition("=")[2] for each in arguments if each.startswith("--load-model=")}


def models_that_scale(container: Container) -> list[set[str]]:
    """Return the models that each query of the autoscaler's rule finds in the metrics."""
    (rule,) = yaml.safe_load((ROOT / "docker/kubernetes/prometheus-adapter.yaml").read_text())["rules"][
        "custom"
    ]
    queries = re.findall(r'(nv_\w+){[^}]*model(=~|!~)"(.+?)"', rule["seriesQuery"] + rule["metricsQuery"])
    metrics = container.http("metrics", "metrics")[1]
    return [
        {
            model
            for model in re.findall(rf'{name}{{model="(\w+)"', metrics)
            if bool(re.fullmatch(pattern, model)) == (operator == "=~")
        }
        for name, operator, pattern in queries
    ]


def make_container(folder: Path, repository: Path) -> Container:
    if importlib.util.find_spec("pytriton") is None:
        pytest.skip("needs the extra `embedded`: the wheel's tritonserver")
    for name in ("bin", "models", "tls"):
        (folder / name).mkdir()
    (folder / "bundle").symlink_to(repository)
    write_command(
        folder, "tritonserver", TRITONSERVER.format(python=sys.executable, backends=str(folder / "backends"))
    )
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in PROTOCOLS]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return Container(
            folder, {name: x.getsockname()[1] for name, x in zip(PROTOCOLS, sockets, strict=True)}
        )


def write_command(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.write_text(script)
    path.chmod(0o755)


@pytest.fixture
def knowing(tmp_path: Path, tiny_repository: Path) -> Path:
    """A bundle by which one fold decides every image."""
    folder = tmp_path / "knowing"
    shutil.copytree(tiny_repository, folder)
    adaptive = Adaptive(1e-6, 1, 1, 1.0, 0.0, 1.0, ((),))
    cover_traces(folder, replace(read_manifest(folder), adaptive=adaptive))
    return folder


@pytest.fixture
def container(tmp_path: Path, tiny_repository: Path) -> Container:
    return make_container(tmp_path, tiny_repository)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_repository: Path) -> Iterator[Container]:
    """A running server that knows the admin key."""
    made = make_container(tmp_path_factory.mktemp("served"), tiny_repository)
    with made.running(FUNDUS_ADMIN_KEY=ADMIN_KEY):
        yield made
