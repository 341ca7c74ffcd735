"""The window and the order of a batch, over the real protocol.

A local gRPC service answers in place of a server. There is no model behind it: it can do on demand what a
healthy tritonserver does rarely, such as answer late, out of order, or with nonsense.
"""

import asyncio
import hashlib
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from tests.conftest import bare_spec
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fundus_client.batch import Batch, Window
from fundus_client.scorer import connect
from fundus_core.ensemble import (
    ENSEMBLE_MODEL,
    FOLD_PROBABILITY,
    MANIFEST_PARAMETER,
    PROBABILITY,
)
from fundus_core.errors import BundleError
from fundus_core.files import ImageRef, find_images
from fundus_core.tables import ScoreRow

SPEC = bare_spec(2)
Answer = service_pb2.ModelInferResponse
Behaviour = Callable[["Service", int, grpc.ServicerContext], object]


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers file number n with probability n / 1000; `behave` may wait, abort, or return other numbers."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.in_flight = self.most_in_flight = self.bytes_in_flight = self.most_bytes_in_flight = 0
        self.served: list[int] = []
        self.requests: list[service_pb2.ModelInferRequest] = []
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(64))

    def __enter__(self) -> "Service":
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.ended.set()
        self._server.stop(None)

    def ServerReady(self, request, context):  # noqa: N802 (the protocol's name)
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelConfig(self, request, context):  # noqa: N802 (the protocol's name)
        answer = service_pb2.ModelConfigResponse()
        answer.config.ensemble_scheduling.step.add(model_name="fundus_preprocess")
        answer.config.name = ENSEMBLE_MODEL
        answer.config.parameters[MANIFEST_PARAMETER].string_value = SPEC.to_json()
        return answer

    def ModelInfer(self, request, context):  # noqa: N802 (the protocol's name)
        data = request.raw_input_contents[0][4:]
        number = int(data.split()[0])
        self.requests.append(request)
        self._count(1, len(data))
        try:
            values = self.behave(self, number, context)
        finally:
            self._count(-1, -len(data))
        self.served.append(number)
        content = [
            np.asarray(each, "<f4").tobytes() for each in values or ([number / 1000], [number / 1000] * 2)
        ]
        outputs = [Answer.InferOutputTensor(name=name) for name in (PROBABILITY, FOLD_PROBABILITY)]
        return Answer(id=request.id, outputs=outputs, raw_output_contents=content)

    def _count(self, images: int, n_bytes: int) -> None:
        with self._lock:
            self.in_flight += images
            self.bytes_in_flight += n_bytes
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.most_bytes_in_flight = max(self.most_bytes_in_flight, self.bytes_in_flight)


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    """30 files of 100 bytes; the server alone would decode them, so they need not be images."""
    for number in range(30):
        (tmp_path / f"{number:02}.jpg").write_bytes(b"%d".ljust(100) % number)
    return list(find_images([tmp_path]))


def run(
    behave: Behaviour, refs: Iterable[ImageRef], *, window: Window | None = None, timeout_s: float = 30.0
) -> tuple[Service, list[ScoreRow], bool]:
    async def batch(address: str) -> tuple[list[ScoreRow], bool]:
        async with connect(address, ready_timeout_s=10, timeout_s=timeout_s) as scorer:
            running = Batch(scorer, window or Window())
            return [row async for row in running.rows(refs)], running.server_lost

    with Service(behave) as service:
        return service, *asyncio.run(batch(service.address))


def reasons(rows: list[ScoreRow]) -> list[str]:
    return [row.reason.partition(":")[0] for row in rows]


def at_once(service: Service, number: int, context: grpc.ServicerContext) -> None:
    return None


def later_files_first(service: Service, number: int, context: grpc.ServicerContext) -> None:
    time.sleep((30 - number) / 100)


def slowly(service: Service, number: int, context: grpc.ServicerContext) -> None:
    time.sleep(0.05)


def test_answers_out_of_order_become_rows_in_order(refs: list[ImageRef]) -> None:
    service, rows, lost = run(later_files_first, refs)
    assert service.served != sorted(service.served)
    assert [row.image_id for row in rows] == [ref.image_id for ref in refs]
    np.testing.assert_allclose([row.probability[0] for row in rows], np.arange(30) / 1000, atol=1e-6)
    assert [row.sha256 for row in rows] == [hashlib.sha256(ref.path.read_bytes()).hexdigest() for ref in refs]
    assert not lost


@pytest.mark.parametrize("most", [1, 4, 8])
def test_at_most_max_images_are_in_flight(refs: list[ImageRef], most: int) -> None:
    service, rows, _ = run(slowly, refs, window=Window(max_images=most))
    assert service.most_in_flight == most
    assert len(rows) == 30


def test_at_most_max_bytes_are_in_flight(refs: list[ImageRef]) -> None:
    service, rows, _ = run(slowly, refs, window=Window(max_bytes=350))
    assert service.most_bytes_in_flight == 300
    assert len(rows) == 30


def test_an_image_above_max_bytes_goes_alone(refs: list[ImageRef]) -> None:
    service, rows, _ = run(slowly, refs, window=Window(max_bytes=10))
    assert service.most_in_flight == 1
    assert len(rows) == 30


def test_files_are_listed_only_as_the_window_moves(refs: list[ImageRef]) -> None:
    """A million files must not become a million objects."""
    taken, ahead = 0, []

    def lazily() -> Iterator[ImageRef]:
        nonlocal taken
        for ref in refs:
            taken += 1
            yield ref

    def watch(service: Service, number: int, context: grpc.ServicerContext) -> None:
        ahead.append(taken - len(service.served))

    run(watch, lazily(), window=Window(max_images=3))
    assert max(ahead) <= 4


@pytest.mark.parametrize(
    "nonsense",
    [
        pytest.param(([float("nan")], [0.5, 0.5]), id="NaN"),
        pytest.param(([0.5], [0.5, float("nan")]), id="NaN in a fold"),
        pytest.param(([1.5], [0.5, 0.5]), id="above 1"),
        pytest.param(([0.5, 0.5], [0.5, 0.5]), id="two labels"),
        pytest.param(([0.5], [0.5]), id="one fold"),
        pytest.param(([], []), id="nothing"),
    ],
)
def test_nonsense_is_no_score(refs: list[ImageRef], nonsense: object) -> None:
    def answer(service: Service, number: int, context: grpc.ServicerContext) -> object:
        return nonsense if number == 7 else None

    _, rows, lost = run(answer, refs)
    assert reasons(rows) == [""] * 7 + ["server_error"] + [""] * 22
    assert not lost


def test_an_answer_to_another_request_is_no_score(
    refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Service.ModelInfer

    def swapped(self: Service, request, context):
        answer = original(self, request, context)
        if b"7 " in request.raw_input_contents[0][4:7]:
            answer.id = "another"
        return answer

    monkeypatch.setattr(Service, "ModelInfer", swapped)
    _, rows, _ = run(at_once, refs)
    assert [row.image_id for row in rows if row.status == "failed"] == ["07.jpg", "17.jpg", "27.jpg"]


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "in ensemble 'x', corrupt: It is cut off.", "corrupt"),
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape", "server_error"),
        (grpc.StatusCode.INTERNAL, "Stub process is not healthy.", "server_error"),
    ],
)
def test_an_error_concerns_one_file(
    refs: list[ImageRef], code: grpc.StatusCode, details: str, reason: str
) -> None:
    def refuse(service: Service, number: int, context: grpc.ServicerContext) -> None:
        if number == 3:
            context.abort(code, details)

    _, rows, lost = run(refuse, refs)
    assert reasons(rows) == [""] * 3 + [reason] + [""] * 26
    assert not lost


# the words of tritonserver 2.51
BUSY = ("Exceeds maximum queue size", "in ensemble 'fundus_ensemble', Request timeout expired")


@pytest.mark.parametrize("words", BUSY)
def test_a_full_queue_is_tried_again_and_so_is_a_wait_that_was_too_long(
    words: str, refs: list[ImageRef]
) -> None:
    refused = set()

    def full_once(service: Service, number: int, context: grpc.ServicerContext) -> None:
        if number not in refused:
            refused.add(number)
            context.abort(grpc.StatusCode.UNAVAILABLE, words)

    _, rows, lost = run(full_once, refs)
    assert reasons(rows) == [""] * 30
    assert not lost


def test_a_queue_that_stays_full(refs: list[ImageRef]) -> None:
    def full(service: Service, number: int, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")

    _, rows, lost = run(full, refs, timeout_s=0.5)
    assert reasons(rows) == ["server_error"] * 30
    assert not lost


def test_no_answer_in_time(refs: list[ImageRef]) -> None:
    def never(service: Service, number: int, context: grpc.ServicerContext) -> None:
        if number >= 5:
            service.ended.wait(60)

    _, rows, lost = run(never, refs, window=Window(max_images=4), timeout_s=1.0)
    assert reasons(rows) == [""] * 5 + ["server_unreachable"] * 25
    assert lost


def test_connection_loss(refs: list[ImageRef]) -> None:
    def vanish(service: Service, number: int, context: grpc.ServicerContext) -> None:
        if number == 10:
            service.stop()

    _, rows, lost = run(vanish, refs, window=Window(max_images=1))
    assert reasons(rows) == [""] * 10 + ["server_unreachable"] * 20
    assert [row.image_id for row in rows] == [ref.image_id for ref in refs]
    assert lost
    assert "Not sent" in rows[-1].reason


def test_closing_early_waits_for_answers_in_flight(refs: list[ImageRef]) -> None:
    """A request that is cancelled may crash tritonserver 2.51."""

    async def batch(service: Service) -> int:
        async with connect(service.address, ready_timeout_s=10, timeout_s=30) as scorer:
            rows = Batch(scorer, Window(max_images=8)).rows(refs)
            await anext(rows)
            await rows.aclose()
            return service.in_flight

    with Service(slowly) as service:
        assert asyncio.run(batch(service)) == 0
    assert 1 <= len(service.served) <= 9


def test_a_server_without_the_ensemble(monkeypatch: pytest.MonkeyPatch, refs: list[ImageRef]) -> None:
    def absent(self: Service, request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")

    monkeypatch.setattr(Service, "ModelConfig", absent)
    with pytest.raises(BundleError, match=r"serves no fundus_ensemble .* Serve a repository made by"):
        run(at_once, refs)


def test_the_request_is_one_length_prefixed_file(refs: list[ImageRef]) -> None:
    service, _, _ = run(at_once, refs[:1])
    data = refs[0].path.read_bytes()
    assert service.requests[0].raw_input_contents[0] == struct.pack("<I", len(data)) + data
    assert list(service.requests[0].inputs[0].shape) == [1, 1]
    assert service.requests[0].model_name == ENSEMBLE_MODEL
    assert service.requests[0].id == hashlib.sha256(data).hexdigest()
