"""A watch as a whole over the real protocol; before a real tritonserver: tests/integration."""

import asyncio
import dataclasses
import io
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Container, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from tests.client.fakes import SPEC, At, Service
from tests.client.killed import LEDGER
from tests.client.test_filing import no_room, table
from tests.client.test_metrics import asked

from fundus_client import batch
from fundus_client.commands.watch import watch as watch_command
from fundus_client.listener import free_port
from fundus_client.member import Patience
from fundus_client.watching import filing, watch
from fundus_client.watching.events import EventLog
from fundus_client.watching.filing import Filing, Places
from fundus_client.watching.inbox import Inbox, Scan, only_watch
from fundus_client.watching.ledger import open_ledger
from fundus_client.watching.metrics import Metrics, PrometheusMetrics
from fundus_client.watching.watch import Watch
from fundus_core.ensemble import ENSEMBLE_MODEL
from fundus_core.pseudonyms import Pseudonyms


@dataclasses.dataclass
class Running:
    """A watch in this process, over a real gRPC service."""

    places: Places
    log: io.StringIO = dataclasses.field(default_factory=io.StringIO)

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        lines = map(json.loads, self.log.getvalue().splitlines())
        return [line for line in lines if name in (None, line["event"])]

    def arrive(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            (self.places.inbox / f"{number}.jpg").write_text(f"{number} an image")

    def left(self) -> list[str]:
        return sorted(path.name for path in self.places.inbox.iterdir() if path.is_file())

    def rows(self) -> list[dict[str, str]]:
        return table(self.places) if list(self.places.tables.glob("*.csv")) else []


Body = Callable[[Running], Awaitable[None]]


def watch_while(
    root: Path,
    service: Service,
    body: Body,
    metrics: Metrics | None = None,
    id_of: Callable[[str], str] = str,
) -> Running:
    """Watch until the body ends, then end it by SIGTERM."""
    places = Places(*(root / name for name in ("inbox", "done", "failed", "tables")))
    for folder in (places.inbox, places.done, places.failed, places.tables):
        folder.mkdir(exist_ok=True)
    running = Running(places)

    async def run() -> None:
        with open_ledger(places.tables / LEDGER) as ledger:
            watching = Watch(
                Inbox(places.inbox, 0.1, id_of),
                Filing(places, ledger),
                EventLog(running.log),
                metrics or Metrics(),
                poll_s=0.05,
            )
            task = asyncio.create_task(
                watching.run([At(service.address)], Patience(10, 2, 8), ENSEMBLE_MODEL)
            )
            try:
                await until(lambda: running.events("started"))
                await body(running)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                await task

    asyncio.run(run())
    return running


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def sent_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake server reads a number where a picture has its pixels."""
    monkeypatch.setattr(batch, "without_metadata", lambda data: data)
    monkeypatch.setattr(watch, "REOPEN_S", 0.1)
    monkeypatch.setattr(watch, "RETRY_S", 0.2)
    monkeypatch.setattr(watch, "_FOLLOW_S", 0.05)


def test_every_file_gets_its_row_and_is_moved(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        running.arrive(range(30))
        await until(lambda: len(running.events("scored")) >= 15)
        running.arrive(range(30, 60))
        await until(lambda: len(running.events("scored")) == 60)

    with Service() as service:
        running = watch_while(tmp_path, service, body)
    assert sorted(service.asked) == list(range(60))
    assert {row["image_id"]: float(row["probability"]) for row in running.rows()} == {
        f"{number}.jpg": pytest.approx(number / 1000, abs=1e-6) for number in range(60)
    }
    assert running.left() == []
    assert len(list(running.places.done.iterdir())) == 60
    assert running.events()[-1] | {"ts": 0} == {"ts": 0, "event": "stopped", "scored": 60}


def test_an_event_says_what_became_of_a_file(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        (running.places.inbox / "empty.jpg").touch()
        running.arrive([7])
        await until(lambda: running.events("scored") and running.events("failed"))

    with Service() as service:
        running = watch_while(tmp_path, service, body)
    (scored,), (failed,) = running.events("scored"), running.events("failed")
    assert scored.keys() >= {"ts", "event", "id", "sha256", "status", "probability", "seconds"}
    assert scored["probability"] == {"glaucoma": pytest.approx(0.007, abs=1e-6)}
    assert 0.1 <= scored["seconds"] < 30
    assert (failed["id"], failed["reason"]) == ("empty.jpg", "empty")


def test_a_server_that_is_away_is_waited_for(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        await until(lambda: running.events("server_back"))
        await asyncio.to_thread(service.stop)
        running.arrive(range(20))
        await asyncio.sleep(4)  # longer than the pool waits: it is opened anew
        assert len(running.left()) == 20
        service.start()
        await until(lambda: len(running.events("scored")) == 20)

    with Service() as service:
        running = watch_while(tmp_path, service, body)
    told = [line["event"] for line in running.events() if line["event"].startswith("s")]
    assert [each for each in told if each != "scored"] == [
        *("started", "server_back", "server_lost", "server_back", "stopped")
    ]
    assert len(running.rows()) == 20


def test_a_server_may_come_later_than_the_watch(tmp_path: Path) -> None:
    service = Service(port=free_port())

    async def body(running: Running) -> None:
        running.arrive([1])
        await asyncio.sleep(2.5)
        service.start()
        await until(lambda: running.events("scored"))

    watch_while(tmp_path, service, body)
    service.stop()


def test_another_bundle_begins_another_table(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        running.arrive(range(5))
        await until(lambda: len(running.events("scored")) == 5)
        service.spec = other
        running.arrive(range(5, 9))
        await until(lambda: len(running.events("scored")) == 9)

    other = dataclasses.replace(SPEC, version="2")
    with Service() as service:
        running = watch_while(tmp_path, service, body)
    digests = [line["bundle_digest"] for line in running.events("server_back")]
    assert digests == [SPEC.digest, other.digest]
    rows = {path.name[18:26]: path.read_text().splitlines() for path in running.places.tables.glob("*.csv")}
    assert {digest: len(lines) for digest, lines in rows.items()} == {
        SPEC.digest[:8]: 6,
        other.digest[:8]: 5,
    }
    assert all(other.digest in line for line in rows[other.digest[:8]][1:])


def test_what_is_in_flight_at_sigterm_is_finished(tmp_path: Path) -> None:
    def slowly(service: Service, number: int, context: grpc.ServicerContext) -> None:
        time.sleep(1)

    async def body(running: Running) -> None:
        running.arrive(range(100))
        await until(lambda: service.in_flight)

    with Service(slowly) as service:
        running = watch_while(tmp_path, service, body)
    assert 1 <= len(running.rows()) == len(service.served) < 40
    assert len(running.left()) == 100 - len(running.rows())
    assert running.events()[-1]["scored"] == len(running.rows())


def test_a_new_file_does_not_wait_for_a_slow_answer_to_an_earlier_one(tmp_path: Path) -> None:
    def first_never(service: Service, number: int, context: grpc.ServicerContext) -> None:
        if number == 0:
            service.ended.wait(30)

    async def body(running: Running) -> None:
        running.arrive([0])
        await until(lambda: service.asked)
        running.arrive([1])
        await until(lambda: running.events("scored"))
        service.ended.set()

    with Service(first_never) as service:
        running = watch_while(tmp_path, service, body)
    assert running.events("scored")[0]["id"] == "1.jpg"


def test_a_table_that_cannot_be_written_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(running: Running) -> None:
        with monkeypatch.context() as full:
            full.setattr(filing, "_append", no_room)
            running.arrive(range(5))
            await until(lambda: running.events("waiting")[1:])
            running.arrive(range(5, 10))
            await asyncio.sleep(0.5)
        await until(lambda: len(running.events("scored")) == 10)

    with Service() as service:
        running = watch_while(tmp_path, service, body)
    assert [line["reason"] for line in running.events("waiting")] == ["server_unreachable", "not_written"]
    assert sorted(row["image_id"] for row in running.rows()) == [f"{number}.jpg" for number in range(10)]


def test_an_inbox_that_is_away_is_waited_for(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        running.places.inbox.rename(tmp_path / "away")
        await until(lambda: running.events("waiting")[1:])
        (tmp_path / "away").rename(running.places.inbox)
        running.arrive([3])
        await until(lambda: running.events("scored"))

    with Service() as service:
        running = watch_while(tmp_path, service, body)
    assert running.events("waiting")[1]["reason"] == "inbox_unreadable"


def test_a_file_that_changes_while_it_is_scored_is_scored_again(tmp_path: Path) -> None:
    def grows(service: Service, number: int, context: grpc.ServicerContext) -> None:
        if len(service.asked) == 1:
            (tmp_path / "inbox" / "1.jpg").write_text("2 an image")

    async def body(running: Running) -> None:
        running.arrive([1])
        await until(lambda: running.events("scored"))

    with Service(grows) as service:
        running = watch_while(tmp_path, service, body)
    assert service.asked == [1, 2]
    assert [float(row["probability"]) for row in running.rows()] == [pytest.approx(0.002, abs=1e-6)]
    assert [line["reason"] for line in running.events("skipped")] == ["changed"]


def test_a_file_that_changes_before_it_is_sent_is_not_sent_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, stale = Inbox.scan, []

    def stale_scan(self: Inbox, taken: Container[str]) -> Scan:
        scanned = scan(self, taken)
        if scanned.ready and not stale:
            (self.folder / "1.jpg").write_text("22 an image")
            stale.extend([scanned] * 10)
        return stale.pop() if len(stale) > 1 else scanned

    async def body(running: Running) -> None:
        running.arrive([1])
        await until(lambda: running.events("scored"))

    monkeypatch.setattr(Inbox, "scan", stale_scan)
    with Service() as service:
        running = watch_while(tmp_path, service, body)
    assert service.asked == [22]
    assert running.events("skipped") == []


def test_with_a_key_no_name_is_written(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        (running.places.inbox / "DOE^JANE").mkdir()
        (running.places.inbox / "DOE^JANE" / "1970.jpg").write_text("1 an image")
        (running.places.inbox / "DOE^JANE" / "1971.jpg").touch()
        await until(lambda: running.events("scored") and running.events("failed"))
        running.places.done.rename(tmp_path / "away")
        (running.places.inbox / "DOE^JANE" / "1972.jpg").write_text("2 an image")
        await until(lambda: running.events("waiting")[1:])

    names = Pseudonyms(bytes(32))
    with Service() as service:
        running = watch_while(tmp_path, service, body, id_of=names.of)
    written = b"".join(path.read_bytes() for path in running.places.tables.iterdir())
    for word in (b"DOE", b"JANE", b".jpg"):
        assert word not in written + running.log.getvalue().encode()
    assert names.of("DOE^JANE/1972.jpg").encode() in written


def test_prometheus_is_answered(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        running.arrive(range(3))
        (running.places.inbox / "empty.jpg").touch()
        await until(lambda: len(running.events("scored")) == 3 and running.events("failed"))
        (running.places.inbox / "settles.jpg").touch()
        await until(lambda: "fundus_inbox_files 1.0" in asked(port))

    port = free_port()
    with Service() as service:
        watch_while(tmp_path, service, body, PrometheusMetrics("127.0.0.1", port))
    answers = asked(port)
    for line in (
        'fundus_images_total{status="scored"} 3.0',
        'fundus_images_total{status="failed"} 1.0',
        'fundus_failures_total{reason="empty"} 1.0',
        'fundus_failures_total{reason="corrupt"} 0.0',
        'fundus_latency_seconds_count{of="file"} 4.0',
        'fundus_latency_seconds_count{of="answer"} 3.0',
        "fundus_server_up 1.0",
    ):
        assert f"{line}\n" in answers


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(watch_command, [*map(str, arguments), "--url", "127.0.0.1:1"])


def test_folders_in_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inbox" / "done").mkdir(parents=True)
    (tmp_path / "failed").mkdir()
    for done in (tmp_path / "inbox" / "done", tmp_path / "inbox", tmp_path):
        refused = invoke(tmp_path / "inbox", "--done", done, "--failed", tmp_path / "failed")
        assert "lie in each other" in str(refused.exception)


def test_a_second_watch_of_an_inbox_is_refused(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("inbox", "done", "failed")]
    for folder in folders:
        folder.mkdir()
    with only_watch(folders[0]):
        refused = invoke(folders[0], "--done", folders[1], "--failed", folders[2])
    assert "Another watch takes files" in str(refused.exception)
