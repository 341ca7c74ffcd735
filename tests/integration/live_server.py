"""A real tritonserver on a live repository, who asks it, and a load of many who do."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from tests.docker.conftest import ADMIN_KEY, TRITONSERVER
from tests.integration.conftest import wait_for
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from fundus_client.tls import ServerTls
from fundus_core.ensemble import ENSEMBLE_MODEL, FOLD_PROBABILITY, IMAGE, PROBABILITY
from fundus_export.cli import main
from fundus_export.live import Live, read_live
from fundus_export.server import KEY_HEADER

N_CLIENTS = 8
ROUNDS = 3  # answers of every client that are waited for between two deployments

Numbers = tuple[float, ...]  # mean and folds of one image


@dataclass(frozen=True)
class Answer:
    """Who made it by its own words, and the numbers."""

    model: str
    version: str
    numbers: Numbers


@dataclass(frozen=True)
class Server:
    """A tritonserver that serves a live repository."""

    live: Path
    address: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def state(self) -> Live:
        return read_live(self.live)

    def tell(self, command: str, *arguments: object, code: int = 0) -> str:
        """Deploy or roll back at the running server; return what it says."""
        told = [command, *arguments, self.live, "--url", self.address, "--admin-key", ADMIN_KEY]
        done = CliRunner().invoke(main, [str(each) for each in told])
        assert done.exit_code == code, f"{done.output}\n{self.log.read_text()[-3000:]}"
        return done.output

    def ensembles(self) -> set[str]:
        """Return the names of the ensembles that answer."""
        with InferenceServerClient(self.address) as client:
            index = client.get_model_repository_index(headers={KEY_HEADER: ADMIN_KEY}).models
        ready = {each.name for each in index if each.state == "READY"}
        return {name for name in ready if name.startswith(ENSEMBLE_MODEL)}


def ask(client: InferenceServerClient, data: bytes, model: str = ENSEMBLE_MODEL) -> Answer:
    image = InferInput(IMAGE, [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[data]], dtype=object))
    answer = client.infer(model, [image], client_timeout=60)
    numbers = [answer.as_numpy(name).reshape(-1) for name in (PROBABILITY, FOLD_PROBABILITY)]
    said = answer.get_response()
    return Answer(said.model_name, said.model_version, tuple(np.concatenate(numbers).tolist()))


@dataclass
class Load:
    """Clients that send image after image; a request without an answer is `lost`."""

    address: str
    images: list[bytes]
    answers: list[tuple[int, Answer]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    sent: list[int] = field(default_factory=lambda: [0] * N_CLIENTS)  # by each client, and done

    def client(self, number: int) -> None:
        with InferenceServerClient(self.address) as client:
            for i in cycle(range(len(self.images))):
                if self.ended.is_set():
                    return
                index = (i + number) % len(self.images)
                try:
                    self.answers.append((index, ask(client, self.images[index])))
                    if not client.is_server_ready():  # then nobody would send it anything
                        self.lost.append("not ready")
                except InferenceServerException as error:
                    self.lost.append(str(error))
                self.sent[number] += 1

    def go_on(self) -> int:
        """Wait until every answer now in flight has come, and more; return how many there are."""
        wanted = [count + ROUNDS for count in self.sent]
        wait_for(lambda: all(now >= then for now, then in zip(self.sent, wanted, strict=True)))
        return len(self.answers)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(N_CLIENTS) as pool:
            clients = [pool.submit(self.client, number) for number in range(N_CLIENTS)]
            try:
                yield
            finally:
                self.ended.set()
        for each in clients:
            each.result()


@contextmanager
def tritonserver(live: Path, folder: Path, tls: ServerTls | None = None) -> Iterator[Server]:
    """Serve a live repository with an admin key; `folder` takes what the server needs."""
    folder.mkdir(exist_ok=True)
    script, log = folder / "tritonserver", folder / "log"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script.write_text(TRITONSERVER.format(python=sys.executable, backends=str(folder / "backends")))
    flags = {
        "model-repository": live,
        "model-control-mode": "explicit",
        "load-model": "*",
        "strict-readiness": "false",
        "model-config-name": "embedded",
        "backend-directory": folder / "backends",
        "backend-config": f"python,shm-region-prefix-name=versions-{port}",
        "grpc-address": "127.0.0.1",
        "grpc-port": port,
        "allow-http": "false",
        "allow-metrics": "false",
        "grpc-restricted-protocol": f"model-repository,statistics:fundus-admin-key={ADMIN_KEY}",
        **(tls.flags() if tls else {}),
    }
    line = [sys.executable, str(script), "--disable-auto-complete-config"]
    line += [f"--{name}={value}" for name, value in flags.items()]
    with log.open("wb") as file, subprocess.Popen(line, stdout=file, stderr=file) as process:
        try:
            wait_for(lambda: "Started GRPC" in log.read_text() or process.poll() is not None)
            assert process.poll() is None, log.read_text()[-3000:]
            yield Server(live, f"127.0.0.1:{port}", process, log)
        finally:
            process.terminate()
            process.wait(60)
