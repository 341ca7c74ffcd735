"""What is open on the real server, and what hostile requests do to it."""

import http.client
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.integration.conftest import flat, scored_alone, server_processes
from tests.mutations import SEEDS, mutated
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fundus_client.embedded import EmbeddedServer, embedded_server
from fundus_client.listener import Listener, Ports, free_port
from fundus_core.ensemble import ENSEMBLE_MODEL, IMAGE, PIXELS, fold_model
from fundus_core.images import DEFAULT_LIMITS

Request = service_pb2.ModelInferRequest


@pytest.fixture(scope="module")
def photo(phantom_folder: Path) -> Path:
    return sorted(phantom_folder.glob("*.jpg"))[0]


@pytest.fixture(scope="module")
def web(tiny_repository: Path, server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """A plain server with HTTP."""
    listener = Listener(Ports(free_port(), free_port()))
    with embedded_server(tiny_repository, listener=listener) as running:
        yield running


OPEN = {
    "ServerLive": {},
    "ServerReady": {},
    "ServerMetadata": {},
    "ModelReady": {"name": ENSEMBLE_MODEL},
    "ModelMetadata": {"name": ENSEMBLE_MODEL},
    "ModelConfig": {"name": ENSEMBLE_MODEL},
}
CLOSED = (
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
)


def test_these_are_all_methods_of_the_protocol() -> None:
    methods = {
        method.name for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    }
    assert methods == {*OPEN, *CLOSED, "ModelInfer", "ModelStreamInfer"}


def ask(server: EmbeddedServer, method: str, **fields: Any) -> Any:
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return getattr(stub, method)(getattr(service_pb2, f"{method}Request")(**fields), timeout=10)


@pytest.mark.parametrize("method", OPEN)
def test_health_and_metadata_are_open(server: EmbeddedServer, method: str) -> None:
    ask(server, method, **OPEN[method])


@pytest.mark.parametrize("method", CLOSED)
def test_what_administers_the_server_is_closed(server: EmbeddedServer, method: str) -> None:
    with pytest.raises(grpc.RpcError, match="This protocol is restricted"):
        ask(server, method)


PATHS = {
    "/v2/health/live": 200,
    "/v2/health/ready": 200,
    f"/v2/models/{ENSEMBLE_MODEL}/ready": 200,
    "/v2": 403,
    f"/v2/models/{ENSEMBLE_MODEL}": 403,
    f"/v2/models/{ENSEMBLE_MODEL}/config": 403,
    f"/v2/models/{ENSEMBLE_MODEL}/stats": 403,
    f"POST /v2/models/{ENSEMBLE_MODEL}/infer": 403,
    f"POST /v2/models/{ENSEMBLE_MODEL}/generate": 403,
    f"POST /v2/models/{ENSEMBLE_MODEL}/generate_stream": 403,
    "POST /v2/repository/index": 403,
    "POST /v2/repository/models/fundus_fold_0/load": 403,
    "POST /v2/repository/models/fundus_fold_0/unload": 403,
    "/v2/systemsharedmemory/status": 403,
    "/v2/cudasharedmemory/status": 403,
    "/v2/trace/setting": 403,
    "/v2/logging": 403,
}


@pytest.mark.parametrize("path", PATHS)
def test_http_answers_health_only(web: EmbeddedServer, path: str) -> None:
    method, _, path_ = path.rpartition(" ")
    connection = http.client.HTTPConnection(str(web.http_address), timeout=10)
    connection.request(method or "GET", path_, body="{}" if method else None)
    assert connection.getresponse().status == PATHS[path]


def restriction(server: EmbeddedServer, flag: str) -> tuple[bytes, bytes]:
    """The header that opens what is closed, as every user of the computer reads it on the command line."""
    line = Path(f"/proc/{server_processes(server.supervisor.pid)[0]}/cmdline").read_bytes().split(b"\0")
    (value,) = [word.partition(b"=")[2] for word in line if word.startswith(f"--{flag}=".encode())]
    name, _, content = value.partition(b":")[2].rpartition(b"=")
    return name, content


def test_the_command_line_gives_no_key_to_http(web: EmbeddedServer) -> None:
    name, value = restriction(web, "http-restricted-api")
    lines = (b"GET /v2/logging HTTP/1.1", b"Host: a", b"Connection: close", name + b": " + value, b"", b"")
    assert sent(web.http_address, b"\r\n".join(lines)).startswith(b"HTTP/1.1 403")


def test_the_command_line_gives_no_key_to_grpc(server: EmbeddedServer) -> None:
    name, value = restriction(server, "grpc-restricted-protocol")
    method = b"/inference.GRPCInferenceService/LogSettings"
    assert b"This protocol is restricted" in sent(server.grpc_address, http2(method, b"\0" * 5))
    answer = sent(server.grpc_address, http2(method, b"\0" * 5, (b"triton-grpc-protocol-" + name, value)))
    assert b"log_file" not in answer
    assert b"grpc-message" in answer


def http2(method: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> bytes:
    """One gRPC request on a connection of its own; no client library would send all of these."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return (
            struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
        )

    every = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", method), (b":authority", b"a"),
             (b"content-type", b"application/grpc"), (b"te", b"trailers"), *headers)  # fmt: skip
    block = b"".join(b"\0" + bytes([len(a)]) + a + bytes([len(b)]) + b for a, b in every)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
    return preface + frame(1, 4, 1, block) + frame(0, 1, 1, body)


def sent(to: str | None, data: bytes) -> bytes:
    """Send the bytes; return what comes back within 2 s of silence."""
    host, _, port = str(to).partition(":")
    answer = b""
    with socket.create_connection((host, int(port)), 2) as connection:
        connection.sendall(data)
        try:
            while part := connection.recv(65536):
                answer += part
        except OSError:
            pass
    return answer


def packed(*images: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def request(
    content: bytes,
    shape: tuple[int, ...],
    datatype: str = "BYTES",
    name: str = IMAGE,
    model: str = ENSEMBLE_MODEL,
) -> Request:
    tensor = Request.InferInputTensor(name=name, datatype=datatype, shape=shape)
    return Request(model_name=model, inputs=[tensor], raw_input_contents=[content])


def refused(server: EmbeddedServer, wrong: Request) -> grpc.RpcError:
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(wrong, timeout=60)
    return caught.value


@pytest.fixture
def unharmed(server: EmbeddedServer, photo: Path) -> Iterator[None]:
    """The server's processes, and its answer to a good image, are afterwards what they were before."""

    def state() -> tuple[list[int], tuple[float, ...]]:
        (answer,) = scored_alone(server.grpc_address, [photo.read_bytes()])
        return server_processes(server.supervisor.pid), flat(answer)

    processes, answer = state()
    yield
    assert state() == (processes, pytest.approx(answer, abs=1e-6))


PICTURE = SEEDS["jpeg"]
FOLD = {"name": PIXELS, "datatype": "UINT8", "model": fold_model(0)}
WRONG = {
    "batch of 1000": (request(packed(*[PICTURE] * 1000), (1000, 1)), "batch-size must be <="),
    "no image": (request(b"", (0, 1)), "string elements"),
    "negative batch": (request(packed(PICTURE), (-1, 1)), "string elements"),
    "negative size": (request(packed(PICTURE), (1, -1)), "dimensions should be specified"),
    "huge shape": (request(packed(PICTURE), (2**62, 4)), "unexpected shape"),
    "two images in a row": (request(packed(PICTURE, PICTURE), (1, 2)), "unexpected shape"),
    "no batch": (request(packed(PICTURE), (1,)), "unexpected shape"),
    "numbers": (request(PICTURE, (1, len(PICTURE)), "UINT8"), "data-type is 'UINT8'"),
    "another input": (request(packed(PICTURE), (1, 1), name="picture"), "unexpected inference input"),
    "length beyond the end": (request(struct.pack("<I", 2**32 - 1) + PICTURE, (1, 1)), "incomplete string"),
    "length before the end": (request(struct.pack("<I", 10) + PICTURE, (1, 1)), "string elements"),
    "no data": (request(b"", (1, 1)), "string elements"),
    "no image, but text": (request(packed(b"no image"), (1, 1)), "not_an_image: "),
    "a wide picture for a fold": (request(bytes(12288), (1, 64, 64, 4), **FOLD), "unexpected shape"),
    "a short picture for a fold": (request(bytes(4096), (1, 64, 64, 3), **FOLD), "byte size mismatch"),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "said"), WRONG.values(), ids=WRONG)
@pytest.mark.usefixtures("unharmed")
def test_a_wrong_request_is_refused(server: EmbeddedServer, wrong: Request, said: str) -> None:
    error = refused(server, wrong)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert said in error.details()


@pytest.mark.usefixtures("unharmed")
def test_an_image_above_the_limit_is_refused_by_the_server_too(server: EmbeddedServer) -> None:
    """The client never sends it; another client might."""
    content = PICTURE + bytes(DEFAULT_LIMITS.max_bytes)
    assert "too_large: " in refused(server, request(packed(content), (1, 1))).details()


@pytest.mark.usefixtures("unharmed")
def test_a_request_that_announces_3_gb_is_refused(server: EmbeddedServer) -> None:
    announced = b"\0" + struct.pack(">I", 3 * 10**9) + bytes(1000)
    answer = sent(server.grpc_address, http2(b"/inference.GRPCInferenceService/ModelInfer", announced))
    assert b"Unable to parse request" in answer


@pytest.mark.usefixtures("unharmed")
def test_damaged_images_do_not_harm_the_server(server: EmbeddedServer) -> None:
    """300 of them, and the good ones among them get their scores."""
    damaged = [mutated(name, seed) for name in SEEDS for seed in range(20)]
    asked = [image for each in damaged for image in (each, PICTURE)]
    with grpc.insecure_channel(server.grpc_address) as channel, ThreadPoolExecutor(32) as threads:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def ask(image: bytes) -> str:
            try:
                answer = stub.ModelInfer(request(packed(image), (1, 1)), timeout=120)
            except grpc.RpcError as error:
                return str(error.details())
            return answer.raw_output_contents[0].hex()

        said = list(threads.map(ask, asked))
    (good,) = set(said[1::2])
    bytes.fromhex(good)
    reasons = {each.partition(": ")[0].rpartition(" ")[2] for each in said[::2] if ": " in each}
    assert reasons >= {"corrupt", "not_an_image"}
    assert reasons <= {"corrupt", "not_an_image", "too_many_pixels", "empty"}
