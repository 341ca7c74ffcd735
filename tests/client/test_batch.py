"""Files -> rows over the real protocol: one row each, in bounded memory, never the answer to another file."""

import asyncio
import hashlib
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from tests.client.fakes import At, Behaviour, Service, at_once

from fundus_client import batch
from fundus_client.batch import Batch
from fundus_client.member import Patience
from fundus_client.pool import open_pool
from fundus_client.scorer import connect
from fundus_client.sources import Ref
from fundus_core.ensemble import ENSEMBLE_MODEL
from fundus_core.errors import BundleError
from fundus_core.files import ImageRef, find_images
from fundus_core.rows import ScoreRow


@dataclass
class Remembered:
    """A memory that starts empty and keeps all rows."""

    rows: dict[str, ScoreRow] = field(default_factory=dict)
    known: frozenset[str] = frozenset()

    def knows(self, image_id: str, stamp: bytes) -> bool:
        return image_id in self.known

    def answer(self, sha256: str) -> ScoreRow | None:
        return next((row for row in self.rows.values() if row.sha256 == sha256), None)

    def record(self, image_id: str, stamp: bytes, row: ScoreRow) -> None:
        assert image_id == row.image_id
        assert image_id not in self.rows, "a second row"
        self.rows[image_id] = row


@pytest.fixture(autouse=True)
def sent_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake server reads a number where a picture has its pixels."""
    monkeypatch.setattr(batch, "without_metadata", lambda data: data)


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    """30 files; the server alone would decode them, so they need not be images."""
    for number in range(30):
        (tmp_path / f"{number:02}.jpg").write_bytes(b"%d no image" % number)
    return list(find_images([tmp_path]))


def run(
    behave: Behaviour,
    refs: Iterable[Ref],
    *,
    in_flight: int = 8,
    memory: Remembered | None = None,
    patience_s: float = 10,
) -> tuple[Service, list[ScoreRow], bool]:
    memory = memory or Remembered()

    async def scored(address: str) -> bool:
        async with open_pool([At(address)], Patience(10, patience_s, in_flight)) as pool:
            await Batch(pool, memory).run(refs)
            return bool(pool.lost)

    with Service(behave) as service:
        lost = asyncio.run(scored(service.address))
    return service, [memory.rows[image_id] for image_id in sorted(memory.rows)], lost


def reasons(rows: Sequence[ScoreRow]) -> list[str]:
    return [row.reason.partition(":")[0] for row in rows]


def slowly(service: Service, number: int, context: grpc.ServicerContext) -> None:
    time.sleep(0.02)


def test_every_file_gets_its_own_answer_however_the_answers_come(refs: list[ImageRef]) -> None:
    def later_files_first(service: Service, number: int, context: grpc.ServicerContext) -> None:
        time.sleep((30 - number) / 100)

    service, rows, lost = run(later_files_first, refs)
    assert service.served != sorted(service.served)
    assert [row.image_id for row in rows] == [ref.image_id for ref in refs]
    np.testing.assert_allclose([row.probability[0] for row in rows], np.arange(30) / 1000, atol=1e-6)
    assert [row.sha256 for row in rows] == [hashlib.sha256(ref.path.read_bytes()).hexdigest() for ref in refs]
    assert not lost


@pytest.mark.parametrize("most", [1, 4])
def test_no_more_images_are_in_flight_than_allowed(refs: list[ImageRef], most: int) -> None:
    service, rows, _ = run(slowly, refs, in_flight=most)
    assert service.most_in_flight == most
    assert len(rows) == 30


def test_no_more_bytes_are_in_memory_than_allowed(
    refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = sorted(ref.size_bytes() for ref in refs)
    monkeypatch.setattr(batch, "MAX_BYTES", sum(sizes[-3:]))
    service, rows, _ = run(slowly, refs)
    assert 1 < service.most_in_flight <= 3
    assert len(rows) == 30


def test_an_image_above_the_bytes_allowed_goes_alone(
    refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MAX_BYTES", 1)
    service, rows, _ = run(slowly, refs)
    assert service.most_in_flight == 1
    assert len(rows) == 30


def test_files_are_listed_only_as_they_are_scored(refs: list[ImageRef]) -> None:
    """A million files must not become a million objects."""
    taken, ahead = 0, []

    def lazily() -> Iterator[ImageRef]:
        nonlocal taken
        for number in range(3000):
            taken += 1
            yield ImageRef(f"{number:04}.jpg", refs[number % 30].path)

    class Fresh(Remembered):
        def answer(self, sha256: str) -> None:
            ahead.append(taken - len(self.rows))

    run(at_once, lazily(), memory=Fresh())
    assert len(ahead) == 3000
    assert max(ahead) <= 8 + batch.READ_AHEAD + 2 * 64


def test_identical_files_are_sent_once_and_reported_each(refs: list[ImageRef]) -> None:
    copies = [ImageRef(f"copy-{number:02}.jpg", refs[number % 3].path) for number in range(60)]
    service, rows, _ = run(slowly, copies)
    assert sorted(service.asked) == [0, 1, 2]
    assert len(rows) == 60
    for row in rows:
        expected = int(row.image_id[5:7]) % 3 / 1000
        assert row.probability == (pytest.approx(expected, abs=1e-6),)


def test_what_is_known_is_not_read_again(refs: list[ImageRef]) -> None:
    known = frozenset(ref.image_id for ref in refs[:20])
    service, rows, _ = run(at_once, refs, memory=Remembered(known=known))
    assert sorted(service.asked) == list(range(20, 30))
    assert len(rows) == 10


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
def test_nonsense_is_no_score(refs: list[ImageRef], nonsense: tuple[list[float], list[float]]) -> None:
    def answer(service: Service, number: int, context: grpc.ServicerContext) -> object:
        return nonsense if number == 7 else None

    _, rows, lost = run(answer, refs)
    assert reasons(rows) == [""] * 7 + ["server_error"] + [""] * 22
    assert not lost


@pytest.mark.parametrize("measures", [b"", np.full(6, np.nan, "<f4").tobytes()], ids=["none", "NaN"])
def test_an_answer_without_measures_is_no_score(
    refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch, measures: bytes
) -> None:
    original = Service.ModelInfer

    def spoilt(self: Service, request, context):
        answer = original(self, request, context)
        if request.raw_input_contents[0][4:].startswith(b"7 "):
            answer.raw_output_contents[2] = measures
        return answer

    monkeypatch.setattr(Service, "ModelInfer", spoilt)
    _, rows, _ = run(at_once, refs)
    assert [row.image_id for row in rows if row.status == "failed"] == ["07.jpg"]


def test_an_answer_to_another_request_is_no_score(
    refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Service.ModelInfer

    def swapped(self: Service, request, context):
        answer = original(self, request, context)
        if request.raw_input_contents[0][4:].startswith(b"7 "):
            answer.id = "another"
        return answer

    monkeypatch.setattr(Service, "ModelInfer", swapped)
    _, rows, _ = run(at_once, refs)
    assert [row.image_id for row in rows if row.status == "failed"] == ["07.jpg"]


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "in ensemble 'x', corrupt: It is cut off.", "corrupt"),
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape", "server_error"),
        (grpc.StatusCode.INTERNAL, "division by zero", "server_error"),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", "breaks_server"),
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
@pytest.mark.parametrize(
    "words", ["Exceeds maximum queue size", "in ensemble 'fundus_ensemble', Request timeout expired"]
)
def test_a_busy_server_gets_the_image_again(words: str, refs: list[ImageRef]) -> None:
    refused = set()

    def full_once(service: Service, number: int, context: grpc.ServicerContext) -> None:
        if number not in refused:
            refused.add(number)
            context.abort(grpc.StatusCode.UNAVAILABLE, words)

    _, rows, lost = run(full_once, refs)
    assert reasons(rows) == [""] * 30
    assert not lost


def test_what_was_not_answered_has_no_row_when_the_servers_are_lost(refs: list[ImageRef]) -> None:
    def vanish(service: Service, number: int, context: grpc.ServicerContext) -> None:
        if len(service.asked) == 11:
            threading.Thread(target=service.stop).start()
            service.ended.wait(5)
            time.sleep(0.2)

    service, rows, lost = run(vanish, refs, in_flight=1, patience_s=1)
    assert lost
    assert {int(row.image_id[:2]) for row in rows} == set(service.asked[:10])
    assert reasons(rows) == [""] * 10


def test_a_cancelled_run_records_what_is_in_flight(refs: list[ImageRef]) -> None:
    """A request that is cancelled may crash tritonserver 2.51."""
    memory = Remembered()

    async def cancelled(service: Service) -> None:
        async with open_pool([At(service.address)], Patience(10, 10, 4)) as pool:
            running = asyncio.create_task(Batch(pool, memory).run(refs))
            while not service.asked:
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.wait([running])
            assert service.in_flight == 0

    def rather_slowly(service: Service, number: int, context: grpc.ServicerContext) -> None:
        time.sleep(0.2)

    with Service(rather_slowly) as service:
        asyncio.run(cancelled(service))
    assert 1 <= len(service.asked) < 30
    assert len(memory.rows) == len(service.asked)


def test_a_fault_of_the_memory_ends_the_run(refs: list[ImageRef]) -> None:
    class Broken(Remembered):
        def record(self, image_id: str, stamp: bytes, row: ScoreRow) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(at_once, refs, memory=Broken())


def test_a_server_without_the_ensemble(monkeypatch: pytest.MonkeyPatch, refs: list[ImageRef]) -> None:
    def absent(self: Service, request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")

    monkeypatch.setattr(Service, "ModelConfig", absent)
    with pytest.raises(BundleError, match=r"serves no fundus_ensemble .* Serve a repository made by"):
        run(at_once, refs)


@pytest.mark.parametrize("size", [1, 123, 124, 16_379, 16_380, 3_000_000])
def test_the_request_is_one_length_prefixed_file(size: int) -> None:
    """Its lengths are written by hand: one of each number of bytes."""
    data = b"1 ".ljust(size, b"\xff")[:size]

    async def ask(address: str) -> None:
        async with connect(address, ready_timeout_s=10, timeout_s=10) as scorer:
            await scorer.score(data, "an-id")

    with Service() as service:
        asyncio.run(ask(service.address))
    (request,) = service.requests
    assert list(request.raw_input_contents) == [struct.pack("<I", len(data)) + data]
    assert list(request.inputs[0].shape) == [1, 1]
    assert (request.model_name, request.id) == (ENSEMBLE_MODEL, "an-id")
