"""How long an embedded server waits when it ends."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tests.client.test_embedded import CONFIG, remains
from tests.integration.conftest import wait_for
from tritonclient.utils import InferenceServerException

from fundus_client.embedded import embedded_server
from fundus_client.listener import Listener, Ports, free_port
from fundus_client.supervisor import EXIT_TIMEOUT_S

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pytriton") is None,
    reason="needs the extra `embedded`: the wheel's tritonserver",
)
SLOW_MODEL = """
import time
from pathlib import Path
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        Path("begun").touch()
        time.sleep(0.5)
        (x,) = (pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests)
        return [pb.InferenceResponse([pb.Tensor("y", x)])]
"""


@pytest.fixture
def slow_repository(tmp_path: Path) -> Path:
    model = tmp_path / "models" / "toy"
    (model / "1").mkdir(parents=True)
    (model / "configs").mkdir()
    (model / "1" / "model.py").write_text(SLOW_MODEL)
    (model / "configs" / "embedded.pbtxt").write_text(CONFIG)
    return tmp_path / "models"


def test_a_server_for_others_answers_before_it_ends(slow_repository: Path) -> None:
    errors = list[InferenceServerException | None]()
    tensor = grpcclient.InferInput("x", [1], "FP32").set_data_from_numpy(np.ones(1, np.float32))
    with embedded_server(slow_repository, listener=Listener(Ports(free_port()))) as server:
        client = grpcclient.InferenceServerClient(server.grpc_address)
        client.async_infer("toy", [tensor], lambda result, error: errors.append(error))
        wait_for((server.runtime / "begun").exists)
        log = server.log_path.open()
    wait_for(lambda: errors)
    assert errors == [None]
    assert waits_s(log.read())[0] == EXIT_TIMEOUT_S
    assert remains(server.runtime) == {}


def test_a_server_for_this_process_alone_waits_for_nothing(slow_repository: Path) -> None:
    with embedded_server(slow_repository) as server:
        log = server.log_path.open()
    assert set(waits_s(log.read())) == {0}
    assert remains(server.runtime) == {}


def waits_s(log: str) -> list[int]:
    """Return how many seconds the server would still have waited, each time that it looked."""
    return list(map(int, re.findall(r"Timeout (\d+): Found", log)))
