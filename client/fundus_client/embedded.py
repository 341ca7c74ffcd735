"""Start the real `tritonserver` of the `nvidia-pytriton` wheel, and end it on every way out.

    with embedded_server(Path("triton_models")) as server:
        client = tritonclient.grpc.InferenceServerClient(server.grpc_address)

Below `fundus_client.supervisor` the server runs in a session of its own, so Ctrl-C reaches the client only.
When the client ends, even by `kill -9`, the server, its Python stubs, its shared memory and its temporary
folder go too.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format

from fundus_client import supervisor
from fundus_client.listener import Listener, Ports, PortTakenError, free_port
from fundus_client.wheel import Wheel, find_wheel
from fundus_core.configs import on_machine
from fundus_core.ensemble import ADAPTIVE_MODEL
from fundus_core.errors import BundleError, ServerError, ServerUnreachableError
from fundus_core.limits import usable_cores
from fundus_core.serving import fitted, read_serving

MODELS = "models"  # of the runtime folder
_PORT_ATTEMPTS = 5
_POLL_S = 0.02
_END_TIMEOUT_S = supervisor.GRACE_S + supervisor.KILL_TIMEOUT_S + 1
_LOG_PREFIX = re.compile(r'^[EWIF]\d{4} [\d:.]+ \d+ \S+\] +"?')
_STUCK = "Python model file not found|error while loading shared libraries"  # the server then waits for ever
_QUIET = re.compile(
    rf"^[WI]\d{{4}} (?!.*({_STUCK}))|^[\s|]|CudaDriver|NVML|Failed to create instance|all models"
)
_ALARM = re.compile(r"error|fail|not healthy|cannot|abort", re.IGNORECASE)
_TAKEN = re.compile(r"'([\d.]+):(\d+)' already in use")


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server; its addresses are "host:port"."""

    listener: Listener
    runtime: Path
    supervisor: subprocess.Popen[bytes] = field(repr=False)

    @property
    def grpc_address(self) -> str:
        """Where gRPC is served."""
        return self.listener.addresses["grpc"]

    @property
    def http_address(self) -> str | None:
        """Where HTTP answers health checks, if it does."""
        return self.listener.addresses.get("http")

    @property
    def metrics_address(self) -> str | None:
        """Where Prometheus metrics are served, if they are."""
        return self.listener.addresses.get("metrics")

    @property
    def log_path(self) -> Path:
        """The server's log; it goes away with the server."""
        return self.runtime / "tritonserver.log"

    def is_alive(self) -> bool:
        """Whether the server's process still runs."""
        return self.supervisor.poll() is None

    def log_tail(self, lines: int = 12) -> str:
        """Return the last lines of the server's log."""
        return "\n".join(self._log()[-lines:])

    def complaints(self) -> str:
        """Return what went wrong according to the server's log, or its last lines when it does not say."""
        said = [_readable(x) for x in self._log() if _ALARM.search(x) and not _QUIET.search(x)]
        return "\n".join(said[-12:]) or self.log_tail()

    def _log(self) -> list[str]:
        return self.log_path.read_text(errors="replace").splitlines()


@contextmanager
def embedded_server(
    repository: Path,
    *,
    listener: Listener | None = None,
    adaptive: bool = False,
    ready_timeout_s: float = 120.0,
) -> Iterator[EmbeddedServer]:
    """Serve a model repository while the block runs; the model that asks fewer folds only with `adaptive`.

    Without `listener`: gRPC on a free port of 127.0.0.1, for this process alone. Such a server ends with the
    block, without the 2 s that it takes to wait for answers and to unload its models.

    Raises:
        BundleError: there is no such folder.
        ServerError: the server did not start; its subclasses say that a port is taken or it took too long.
    """
    if not repository.is_dir():
        raise BundleError(f"There is no model repository at {repository}. Check the path, or export one.")
    wheel = find_wheel()
    exit_timeout_s = supervisor.EXIT_TIMEOUT_S if listener else 0
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        place = listener or Listener(Ports(free_port()))
        models = _Models(repository.resolve(), adaptive)
        with _running(wheel, models, place, exit_timeout_s) as server:
            try:
                _wait_until_ready(server, ready_timeout_s)
            except PortTakenError:
                if listener or attempt == _PORT_ATTEMPTS:
                    raise
                continue  # another program was faster on the port that was free
            yield server
            return


@contextmanager
def _running(
    wheel: Wheel, models: "_Models", listener: Listener, exit_timeout_s: int
) -> Iterator[EmbeddedServer]:
    """Start the supervisor, and through it the server, in a temporary folder of their own."""
    listener.check_free()
    with tempfile.TemporaryDirectory(prefix="fundus-triton-", ignore_cleanup_errors=True) as folder:
        runtime = Path(folder)
        wheel.link_backend(runtime / "backends" / "python")
        models.link(runtime / MODELS)
        flags = _flags(listener, runtime, exit_timeout_s)
        command = [str(wheel.folder / "bin" / "tritonserver"), *flags]
        server = EmbeddedServer(listener, runtime, _spawn(command, runtime, wheel.environment()))
        try:
            yield server
        finally:
            server.supervisor.terminate()
            with suppress(subprocess.TimeoutExpired):
                if server.supervisor.wait(_END_TIMEOUT_S) < 0:
                    supervisor.clear(runtime)


@dataclass(frozen=True)
class _Models:
    """What is served: a repository, perhaps without the processes of the adaptive model."""

    repository: Path
    adaptive: bool

    def link(self, target: Path) -> None:
        """Mirror it: the stubs write compiled Python beside every model.py that they run."""
        for path in self.repository.rglob("*"):
            inner = path.relative_to(self.repository)
            if inner.parts[0].startswith(ADAPTIVE_MODEL) and not self.adaptive:
                continue
            place = target / inner
            if path.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            elif path.parent.name != "__pycache__":
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(path)
        self._fit(target)

    def _fit(self, target: Path) -> None:
        """Put configs for this machine in the place of links."""
        serving = fitted(read_serving(self.repository), usable_cores(), on_gpu=False)
        # Asked one after the other, folds need all cores, not a share: the first is asked for every image.
        n_sharing = 1 if self.adaptive else len(list(target.glob("fundus_fold_*")))
        for path in target.rglob("*.pbtxt"):
            with suppress(text_format.ParseError):  # the server says what is wrong with it
                text = on_machine(path.read_text(), serving, n_sharing)
                path.unlink()
                path.write_text(text)


def _flags(listener: Listener, runtime: Path, exit_timeout_s: int) -> list[str]:
    flags = {
        "id": runtime.name,
        "model-repository": runtime / MODELS,
        "model-config-name": "embedded",
        "backend-directory": runtime / "backends",
        "backend-config": f"python,shm-region-prefix-name={runtime.name}",
        "exit-timeout-secs": exit_timeout_s,
        "grpc-infer-allocation-pool-size": 0,  # else memory stays as large as the largest requests ever were
        **listener.flags(),
    }
    # Without completion: else every model.py starts twice, and six models take 3.5 s instead of 0.6 s.
    return ["--disable-auto-complete-config", *(f"--{name}={value}" for name, value in flags.items())]


def _spawn(command: list[str], runtime: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    script = [sys.executable, "-I", "-S", supervisor.__file__, str(os.getpid()), str(runtime)]
    with (runtime / "tritonserver.log").open("wb") as log:
        return subprocess.Popen(
            [*script, *command],
            cwd=runtime,  # stubs import from it first: not from the user's, where any numpy.py may lie
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_until_ready(server: EmbeddedServer, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not _is_ready(server):
        if not server.is_alive() or re.search(_STUCK, server.log_tail()):
            raise _death(server)
        if time.monotonic() > deadline_s:
            raise ServerUnreachableError(
                f"The embedded Triton server was not ready after {timeout_s:g} s. Allow it more time. "
                f"Its log ends with:\n{server.log_tail()}"
            )
        time.sleep(_POLL_S)


def _is_ready(server: EmbeddedServer) -> bool:
    """Whether the log says so: asking over mutual TLS would take a client's certificate."""
    # The protocols start one after the other, and none before every model is ready.
    log = server.log_path.read_text(errors="replace")
    if not all(f' at {address}"\n' in log for address in server.listener.addresses.values()):
        return False
    # gRPC listens by then, the others a moment later.
    return all(_listens(address) for address in (server.http_address, server.metrics_address) if address)


def _listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def _death(server: EmbeddedServer) -> ServerError:
    log = server.complaints()
    if taken := _TAKEN.search(log):
        return PortTakenError(taken[1], int(taken[2]))
    return ServerError(
        f"The embedded Triton server did not start. Correct what its log complains about:\n{log}"
    )


def _readable(line: str) -> str:
    """Strip what Triton's log adds to a message: prefix, quotes, escapes and the Python call stack."""
    message = _LOG_PREFIX.sub("", line).removesuffix('"').replace("\\n", "\n")
    return "  " + message.partition("\n\nAt:")[0].replace("\n", "\n  ")
