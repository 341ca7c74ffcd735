"""The embedded server, against the real tritonserver of the wheel."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from fundus_client import embedded, wheel
from fundus_client.embedded import embedded_server
from fundus_client.listener import Listener, Ports, free_port
from fundus_core.errors import BundleError, MissingExtraError, ServerError, ServerUnreachableError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pytriton") is None,
    reason="needs the extra `embedded`: the wheel's tritonserver",
)

MakeRepository = Callable[..., Path]
CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "x", data_type: TYPE_FP32, dims: [-1] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [-1] }]
"""
MODEL = """
import cv2, onnxruntime
import fundus_core
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        {initialize}

    def execute(self, requests):
        inputs = (pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests)
        return [pb.InferenceResponse([pb.Tensor("y", x)]) for x in inputs]
"""
CLIENT = """
import json, signal, sys, time
from pathlib import Path
from fundus_client.embedded import embedded_server

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the shell lets it be ignored
with embedded_server(Path(sys.argv[1])) as server:
    print(json.dumps([str(server.runtime), server.supervisor.pid, server.grpc_address]), flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        assert server.is_alive()
        print("still served", flush=True)
        raise
"""


@pytest.fixture
def make_repository(tmp_path: Path) -> MakeRepository:
    def make(initialize: str = "pass", config: str = CONFIG, model: str = MODEL) -> Path:
        folder = tmp_path / "models" / "toy"
        (folder / "1").mkdir(parents=True)
        (folder / "configs").mkdir()
        (folder / "1" / "model.py").write_text(model.replace("{initialize}", initialize))
        (folder / "configs" / "embedded.pbtxt").write_text(config)
        return tmp_path / "models"

    return make


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def answers(address: str) -> bool:
    sent = np.arange(5, dtype=np.float32)
    tensor = grpcclient.InferInput("x", [5], "FP32")
    tensor.set_data_from_numpy(sent)
    with grpcclient.InferenceServerClient(address) as client:
        return np.array_equal(client.infer("toy", [tensor]).as_numpy("y"), sent)


def processes(mark: str) -> list[int]:
    """Pids of the processes, zombies aside, that mention `mark` on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def remains(runtime: Path) -> dict[str, object]:
    """What is left of a server; a process names the runtime folder on its command line."""
    shared = list(Path("/dev/shm").glob(f"{runtime.name}*"))  # noqa: S108
    left = {"processes": processes(runtime.name), "shared memory": shared, "folder": runtime.exists()}
    return {name: value for name, value in left.items() if value}


def remains_in_the_end(runtime: Path, expected: set[str], timeout_s: float = 10) -> set[str]:
    deadline_s = time.monotonic() + timeout_s
    while set(remains(runtime)) != expected and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return set(remains(runtime))


@pytest.fixture
def client(make_repository: MakeRepository) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CLIENT, str(make_repository())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield process
        process.kill()


def started(client: subprocess.Popen[str]) -> tuple[Path, int]:
    assert client.stdout is not None
    runtime, supervisor_pid, address = json.loads(client.stdout.readline())
    assert answers(address)
    assert len(processes(Path(runtime).name)) == 3  # supervisor, tritonserver, stub
    return Path(runtime), supervisor_pid


def test_it_answers_and_leaves_nothing(make_repository: MakeRepository) -> None:
    with embedded_server(make_repository()) as server:
        assert answers(server.grpc_address)
        assert server.is_alive()
        assert server.http_address is server.metrics_address is None
        assert "GRPCInferenceService" in server.log_tail()
        assert set(remains(server.runtime)) == {"processes", "shared memory", "folder"}
    assert not server.is_alive()
    assert remains(server.runtime) == {}


def test_two_at_once_and_the_given_ports(make_repository: MakeRepository) -> None:
    repository = make_repository()
    with ExitStack() as free:
        sockets = [free.enter_context(socket.socket()) for _ in range(3)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        ports = [held.getsockname()[1] for held in sockets]
    listener = Listener(Ports(*ports))
    with embedded_server(repository, listener=listener) as one, embedded_server(repository) as other:
        assert answers(one.grpc_address)
        assert answers(other.grpc_address)
        addresses = one.grpc_address, one.http_address, one.metrics_address
        for port, address in zip(ports, addresses, strict=True):
            assert address == f"127.0.0.1:{port}"
            socket.create_connection(("127.0.0.1", port), 1).close()
    assert remains(one.runtime) == remains(other.runtime) == {}


def test_stubs_use_our_packages_only(
    make_repository: MakeRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cv2.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    repository = make_repository("import sys; print('PREFIX', sys.prefix, flush=True)")
    with embedded_server(repository.relative_to(tmp_path)) as server:
        assert f"PREFIX {sys.prefix}\n" in server.log_path.read_text()


def test_an_exception_in_the_block_ends_it(make_repository: MakeRepository) -> None:
    with pytest.raises(ZeroDivisionError), embedded_server(make_repository()) as server:
        _ = 1 / 0
    assert remains(server.runtime) == {}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_client_leaves_nothing(client: subprocess.Popen[str], number: signal.Signals) -> None:
    runtime, _ = started(client)
    client.send_signal(number)
    assert client.wait(5) == -number
    assert remains_in_the_end(runtime, set()) == set()


def test_ctrl_c_reaches_the_client_only(client: subprocess.Popen[str]) -> None:
    runtime, _ = started(client)
    os.killpg(client.pid, signal.SIGINT)
    assert client.stdout is not None
    assert client.stdout.read() == "still served\n"
    assert client.wait(10) != 0
    assert remains(runtime) == {}


def test_a_killed_supervisor_takes_the_server_along(client: subprocess.Popen[str]) -> None:
    runtime, supervisor_pid = started(client)
    os.kill(supervisor_pid, signal.SIGKILL)
    assert remains_in_the_end(runtime, {"folder"}) == {"folder"}  # the client's: it goes with the client
    os.killpg(client.pid, signal.SIGINT)
    client.wait(10)
    assert remains(runtime) == {}


def test_a_server_that_hangs_without_its_supervisor_ends_with_the_client(
    client: subprocess.Popen[str],
) -> None:
    runtime, supervisor_pid = started(client)
    (server_pid,) = set(processes(f"--id={runtime.name}")) - {supervisor_pid}
    os.kill(server_pid, signal.SIGSTOP)
    os.kill(supervisor_pid, signal.SIGKILL)
    assert remains_in_the_end(runtime, set(), 1) == {"processes", "shared memory", "folder"}
    os.killpg(client.pid, signal.SIGINT)
    client.wait(10)
    assert remains_in_the_end(runtime, set()) == set()


def test_a_killed_server_takes_its_stubs_along(make_repository: MakeRepository) -> None:
    with embedded_server(make_repository()) as server:
        (pid,) = set(processes(f"--id={server.runtime.name}")) - {server.supervisor.pid}
        os.kill(pid, signal.SIGKILL)
        server.supervisor.wait(5)
        assert not server.is_alive()
        assert set(remains(server.runtime)) == {"folder"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"initialize": "import no_such_module"}, "No module named 'no_such_module'"),
        ({"initialize": "onnxruntime.InferenceSession('/gone/model.onnx')"}, "/gone/model.onnx failed"),
        ({"initialize": "import os; os._exit(3)"}, "Stub process 'toy_0' is not healthy"),
        ({"model": "def ("}, "SyntaxError: invalid syntax (model.py, line 1)"),
        ({"config": CONFIG.replace("input", "inputt")}, 'has no field named "inputt"'),
        ({"config": CONFIG.replace("python", "onnxruntime")}, "unable to find backend library"),
    ],
)
def test_a_broken_model_says_why(make_repository: MakeRepository, change: dict[str, str], said: str) -> None:
    with pytest.raises(ServerError) as caught, embedded_server(make_repository(**change)):
        pass
    assert said in str(caught.value)
    assert "toy" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 6


def test_a_missing_model_file_does_not_wait_for_ever(make_repository: MakeRepository) -> None:
    repository = make_repository()
    (repository / "toy" / "1" / "model.py").unlink()
    with pytest.raises(ServerError, match="Python model file not found"), embedded_server(repository):
        pass


def test_the_wait_is_bounded(make_repository: MakeRepository) -> None:
    begin_s = time.monotonic()
    slow = make_repository("import time; time.sleep(60)")
    with (
        pytest.raises(ServerUnreachableError, match=r"not ready after 1\.5 s"),
        embedded_server(slow, ready_timeout_s=1.5),
    ):
        pass
    assert time.monotonic() - begin_s < 12


def test_a_taken_port_is_named(make_repository: MakeRepository, taken_port: int) -> None:
    with (
        pytest.raises(ServerError, match=f"Port {taken_port} on 127.0.0.1 is in use"),
        embedded_server(make_repository(), listener=Listener(Ports(taken_port))),
    ):
        pass


def test_a_port_lost_to_another_program_is_replaced(
    make_repository: MakeRepository, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, offered = free_port(), iter([taken_port])
    monkeypatch.setattr(embedded, "free_port", lambda: next(offered, port))
    monkeypatch.setattr(Listener, "check_free", lambda _: None)  # lost after the check, before the start
    with embedded_server(make_repository()) as server:
        assert server.listener.ports.grpc == port
        assert answers(server.grpc_address)


def test_a_python_without_stub_is_a_sentence(
    make_repository: MakeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel, "_PYTHON", "3.99")
    monkeypatch.setattr(wheel, "_libpython_folders", list)
    with (
        pytest.raises(ServerError, match=r"Python 3\.99, only with 3\.8, .*3\.13\."),
        embedded_server(make_repository()),
    ):
        pass


def test_a_missing_wheel_is_a_sentence(
    make_repository: MakeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(MissingExtraError, match=r"fundus-triton\[embedded\]"),
        embedded_server(make_repository()),
    ):
        pass


def test_a_missing_repository_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no model repository"), embedded_server(tmp_path / "none"):
        pass


def test_the_wheel_is_found_without_importing_it() -> None:
    code = "import sys, fundus_client.wheel as e; e.find_wheel(); print('pytriton' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
