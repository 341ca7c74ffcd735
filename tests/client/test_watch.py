"""A watch in its parts, and as a whole over the real protocol; with a real server: tests/integration."""

import asyncio
import csv
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest
from click.testing import CliRunner, Result
from tests.client import killed
from tests.client.fakes import SPEC, At, Service
from tests.client.killed import FORM, LEDGER, NAMES, answer, file_all, set_up

from fundus_client import batch, filing, inbox, watch
from fundus_client.commands.watch import watch as watch_command
from fundus_client.events import EventLog
from fundus_client.filing import Filing, Outcome, Places
from fundus_client.inbox import Inbox, Scan
from fundus_client.ledger import open_ledger
from fundus_client.listener import free_port
from fundus_client.member import Patience
from fundus_client.metrics import Metrics, PrometheusMetrics
from fundus_client.watch import Watch
from fundus_core.ensemble import ENSEMBLE_MODEL
from fundus_core.errors import MissingExtraError, UsageError
from fundus_core.pseudonyms import Pseudonyms

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
DOCS = Path(__file__).resolve().parents[2] / "docs" / "watch.md"
OTHER_FILE_SYSTEM = Path("/dev/shm")  # noqa: S108 (where Linux has one)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return set_up(tmp_path, tmp_path / "done")


def table(places: Places) -> list[dict[str, str]]:
    """The rows of the only table."""
    (path,) = places.tables.glob("scores-*.csv")
    with path.open(errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def ids(scan: Scan) -> list[str]:
    return [arrival.image_id for arrival in scan.ready]


class TestInbox:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path

    def test_a_file_is_ready_when_it_stayed_the_same_for_so_long(self, folder: Path) -> None:
        (folder / "a.jpg").write_text("half")
        looked = Inbox(folder, settle_s=0.3)
        assert ids(looked.scan(())) == []
        time.sleep(0.35)
        (folder / "a.jpg").write_text("whole")
        assert ids(looked.scan(())) == []
        time.sleep(0.35)
        assert ids(looked.scan(())) == ["a.jpg"]

    def test_a_file_that_was_renamed_into_place_is_ready_at_once(self, folder: Path) -> None:
        (folder / "a.jpg.part").write_text("whole")
        looked = Inbox(folder, settle_s=60)
        looked.scan(())
        time.sleep(0.02)
        (folder / "a.jpg.part").rename(folder / "a.jpg")
        assert ids(looked.scan(())) == ["a.jpg"]

    def test_a_file_that_grows_after_its_rename_is_not(self, folder: Path) -> None:
        (folder / "a.jpg.part").write_text("half")
        looked = Inbox(folder, settle_s=60)
        looked.scan(())
        time.sleep(0.02)
        (folder / "a.jpg.part").rename(folder / "a.jpg")
        with (folder / "a.jpg").open("a") as file:
            file.write("the rest")
        assert ids(looked.scan(())) == []

    def test_what_is_unfinished_or_no_regular_file_is_left(self, folder: Path) -> None:
        (folder / ".hidden").mkdir()
        (folder / "study.part").mkdir()
        (folder / "eye").mkdir()
        unfinished = (".a.jpg", "a.jpg.PART", "a.jpg.tmp", "a.filepart", ".hidden/a.jpg", "study.part/a.jpg")
        for name in (*unfinished, "notes.txt", "eye/b.JPG"):
            (folder / name).touch()
        (folder / "link.jpg").symlink_to("eye/b.JPG")
        (folder / "folder").symlink_to("eye")
        os.mkfifo(folder / "pipe.jpg")
        scan = Inbox(folder, settle_s=0).scan(())
        assert ids(scan) == ["eye/b.JPG"]
        assert (scan.n_images, scan.n_others, scan.n_unlisted) == (1, 1, 0)

    def test_the_oldest_come_first_and_memory_does_not_grow_with_their_number(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(inbox, "OLDEST", 50)
        peaks = []
        for start, stop in ((0, 500), (500, 5000)):
            for number in range(start, stop):
                (folder / f"{number % 7}-{number}.jpg").touch()
                os.utime(folder / f"{number % 7}-{number}.jpg", (0, number))
            tracemalloc.start()
            scan = Inbox(folder, settle_s=0).scan({"1-1.jpg"})
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert ids(scan) == [f"{number % 7}-{number}.jpg" for number in range(51) if number != 1]
            assert scan.n_images == stop
        assert peaks[1] < 1.2 * peaks[0]

    def test_a_folder_that_cannot_be_listed_is_counted_and_hides_nothing_else(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "closed").mkdir()
        (folder / "open").mkdir()
        (folder / "open" / "a.jpg").touch()
        scandir = os.scandir

        def refuse(path: Path) -> Iterator[os.DirEntry[str]]:
            if path.name == "closed":
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        scan = Inbox(folder, settle_s=0).scan(())
        assert (ids(scan), scan.n_unlisted) == (["open/a.jpg"], 1)
        with pytest.raises(PermissionError):
            Inbox(folder / "closed", settle_s=0).scan(())


class TestFiling:
    def test_rows_are_written_and_files_moved(self, places: Places) -> None:
        outcomes = file_all(places)
        assert [(each.event, each.facts["id"]) for each in outcomes] == [
            ("scored", "eye/b.jpg"),
            ("failed", "failed.jpg"),
        ]
        assert [row["status"] for row in table(places)] == ["scored", "failed"]
        assert list(table(places)[0])[-1] == "time"
        check_all_filed(places)

    def test_nothing_is_overwritten_and_the_row_has_the_id_of_the_arrival(self, places: Places) -> None:
        for number in range(3):
            (places.inbox / "eye" / "b.jpg").write_text(f"new {number}")
            file_all(places)
        there = {path.name: path.read_text() for path in (places.done / "eye").iterdir()}
        new = {f"b-{number + 1}.jpg": f"new {number}" for number in range(3)}
        assert there == {"b.jpg": "an older file"} | new
        assert [row["image_id"] for row in table(places) if row["status"] == "scored"] == ["eye/b.jpg"] * 3

    def test_a_process_killed_at_any_line_loses_nothing_and_gives_no_row_twice(self, tmp_path: Path) -> None:
        """DONE on another file system, so files are copied there; FAILED on that of the inbox."""
        if OTHER_FILE_SYSTEM.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs two file systems")
        root = OTHER_FILE_SYSTEM / f"{tmp_path.parent.name}-{tmp_path.name}"
        program = [sys.executable, killed.__file__, root, tmp_path]
        try:
            done = subprocess.run(program, capture_output=True, text=True, check=True, env=ONE_THREAD)
            n_lines = int(done.stdout)
            for n in map(str, range(1, n_lines)):
                places = Places(root / n / "inbox", tmp_path / n, root / n / "failed", root / n / "tables")
                assert sorted(row["image_id"] for row in table(places)) == list(NAMES), n
                check_all_filed(places)
            assert n_lines > 100
        finally:
            shutil.rmtree(root)

    @pytest.mark.parametrize("n_before", [0, 2])
    def test_a_line_goes_on_where_it_was_cut_off(self, places: Places, n_before: int) -> None:
        if n_before:
            file_all(places)
            arrive(places, "eye/b.jpg")
        begin_without_a_table(places)
        with open_ledger(places.tables / LEDGER) as ledger:
            begun, written = ledger.begun(), Filing(places, ledger)._write
            written()
            (path,) = places.tables.glob("*.csv")
            whole = path.read_bytes()
            for cut in (*range(begun[0].entry.line_at, len(whole), 7), len(whole) - 1):
                path.write_bytes(whole[:cut])
                ledger._database.execute("UPDATE begun SET written = 0")
                written()
                assert path.read_bytes() == whole

    @pytest.mark.parametrize("edited", ["", "somebody's own text", "image_id\r\nshort.jpg\r\n"])
    def test_a_table_that_somebody_changed_gets_the_missing_lines(self, places: Places, edited: str) -> None:
        file_all(places)
        (path,) = places.tables.glob("*.csv")
        header = path.read_text().splitlines()[0]
        arrive(places, "eye/b.jpg")
        begin_without_a_table(places)
        path.write_text(edited)
        file_all(places)
        *before, last = path.read_text().splitlines()
        assert before == (edited.splitlines() or [header])
        assert last.startswith("eye/b.jpg,")

    def test_what_changed_since_it_was_read_is_left_alone(self, places: Places) -> None:
        with open_ledger(places.tables / LEDGER) as ledger:
            arrivals = Inbox(places.inbox, settle_s=0).scan(()).ready
            answers = [answer(places, arrival) for arrival in arrivals]
            (places.inbox / "failed.jpg").write_text("sent once more")
            (places.inbox / "eye" / "b.jpg").unlink()
            outcomes = Filing(places, ledger).file(answers)
        assert outcomes == [
            Outcome("skipped", name, {"id": name, "reason": "changed"})
            for name in ("eye/b.jpg", "failed.jpg")
        ]
        assert (places.inbox / "failed.jpg").read_text() == "sent once more"
        assert list(places.tables.glob("*.csv")) == []

    def test_what_is_sent_again_before_the_move_is_another_arrival(self, places: Places) -> None:
        away = places.done.rename(places.done.with_name("away"))
        assert [each.event for each in file_all(places)] == ["stuck", "failed"]
        away.rename(places.done)
        arrive(places, "eye/b.jpg", "sent again")
        file_all(places)
        assert (places.inbox / "eye" / "b.jpg").read_text() == "sent again"
        file_all(places)
        assert (places.done / "eye" / "b-1.jpg").read_text() == "sent again"
        assert [row["image_id"] for row in table(places)] == ["eye/b.jpg", "failed.jpg", "eye/b.jpg"]

    def test_a_stuck_file_is_told_once_and_holds_nothing_up(self, places: Places) -> None:
        away = places.done.rename(places.done.with_name("away"))
        with open_ledger(places.tables / LEDGER) as ledger:
            arrivals = Inbox(places.inbox, settle_s=0).scan(()).ready
            filed = Filing(places, ledger)
            events = [each.event for each in filed.file([answer(places, each) for each in arrivals])]
            again = filed.file([])
            away.rename(places.done)
            mended = [each.event for each in filed.file([])]
        assert (events, again, mended) == (["stuck", "failed"], [], ["scored"])
        check_all_filed(places)

    def test_each_bundle_has_its_own_table(self, places: Places) -> None:
        other = dataclasses.replace(FORM, labels=("glaucoma", "amd"), bundle_digest="fedcba9876543210")
        with open_ledger(places.tables / LEDGER) as ledger:
            first, second = Inbox(places.inbox, settle_s=0).scan(()).ready
            Filing(places, ledger).file([answer(places, first), answer(places, second, other)])
        days = {path.name[:17] for path in places.tables.glob("*.csv")}
        assert {path.name[18:] for path in places.tables.glob("*.csv")} == {"01234567.csv", "fedcba98.csv"}
        assert all(re.fullmatch(r"scores-\d{4}-\d\d-\d\d", day) for day in days)

    def test_odd_names_survive(self, places: Places) -> None:
        odd = [os.fsdecode(b"\xff.jpg"), 'a "b",\n.jpg', "=1+1.jpg"]
        for name in odd:
            (places.inbox / name).write_text(name.encode("unicode_escape").decode())
        file_all(places)
        assert {path.name for path in places.done.iterdir()} == {"eye", *odd}
        check_all_filed(places)

    def test_another_inbox_or_key_may_not_go_on_with_what_is_begun(self, places: Places) -> None:
        with open_ledger(places.tables / LEDGER) as ledger:
            ledger.belongs_to("first")
            ledger.belongs_to("second")
            places.done.rename(places.done.with_name("away"))
            arrivals = Inbox(places.inbox, settle_s=0).scan(()).ready
            Filing(places, ledger).file([answer(places, each) for each in arrivals])
            with pytest.raises(UsageError, match="another inbox or key"):
                ledger.belongs_to("first")
            ledger.belongs_to("second")


def arrive(places: Places, name: str, content: str = "new again") -> None:
    time.sleep(0.01)  # another time of change
    (places.inbox / name).write_text(content)


def no_room(*_: object) -> None:
    raise OSError(28, "no room")


def begin_without_a_table(places: Places) -> None:
    """Record what is in the inbox, and get no further."""
    with mock.patch.object(filing, "_append", no_room), pytest.raises(OSError, match="no room"):
        file_all(places)


def check_all_filed(places: Places) -> None:
    """Nothing is left in the inbox, and what lies elsewhere is what the rows say."""
    assert [path for path in places.inbox.rglob("*") if path.is_file()] == []
    assert (places.done / "eye" / "b.jpg").read_text() == "an older file"
    said = Counter((row["sha256"], row["status"]) for row in table(places))
    there = Counter(
        (hashlib.sha256(path.read_bytes()).hexdigest(), status)
        for folder, status in ((places.done, "scored"), (places.failed, "failed"))
        for path in folder.rglob("*")
        if path.is_file() and path.read_text() != "an older file"
    )
    assert said == there


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


@pytest.fixture
def sent_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake server reads a number where a picture has its pixels."""
    monkeypatch.setattr(batch, "without_metadata", lambda data: data)
    monkeypatch.setattr(watch, "REOPEN_S", 0.1)
    monkeypatch.setattr(watch, "RETRY_S", 0.2)
    monkeypatch.setattr(watch, "_FOLLOW_S", 0.05)


@pytest.mark.usefixtures("sent_as_it_is")
class TestWatch:
    def test_every_file_gets_its_row_and_is_moved(self, tmp_path: Path) -> None:
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

    def test_an_event_says_what_became_of_a_file(self, tmp_path: Path) -> None:
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

    def test_a_server_that_is_away_is_waited_for(self, tmp_path: Path) -> None:
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

    def test_a_server_may_come_later_than_the_watch(self, tmp_path: Path) -> None:
        service = Service(port=free_port())

        async def body(running: Running) -> None:
            running.arrive([1])
            await asyncio.sleep(2.5)
            service.start()
            await until(lambda: running.events("scored"))

        watch_while(tmp_path, service, body)
        service.stop()

    def test_another_bundle_begins_another_table(self, tmp_path: Path) -> None:
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
        rows = {
            path.name[18:26]: path.read_text().splitlines() for path in running.places.tables.glob("*.csv")
        }
        assert {digest: len(lines) for digest, lines in rows.items()} == {
            SPEC.digest[:8]: 6,
            other.digest[:8]: 5,
        }
        assert all(other.digest in line for line in rows[other.digest[:8]][1:])

    def test_what_is_in_flight_at_sigterm_is_finished(self, tmp_path: Path) -> None:
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

    def test_a_new_file_does_not_wait_for_a_slow_answer_to_an_earlier_one(self, tmp_path: Path) -> None:
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
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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

    def test_an_inbox_that_is_away_is_waited_for(self, tmp_path: Path) -> None:
        async def body(running: Running) -> None:
            running.places.inbox.rename(tmp_path / "away")
            await until(lambda: running.events("waiting")[1:])
            (tmp_path / "away").rename(running.places.inbox)
            running.arrive([3])
            await until(lambda: running.events("scored"))

        with Service() as service:
            running = watch_while(tmp_path, service, body)
        assert running.events("waiting")[1]["reason"] == "inbox_unreadable"

    def test_a_file_that_changes_while_it_is_scored_is_scored_again(self, tmp_path: Path) -> None:
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

    def test_with_a_key_no_name_is_written(self, tmp_path: Path) -> None:
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
        for word in (b"DOE", b"JANE", b"197"):
            assert word not in written + running.log.getvalue().encode()
        assert names.of("DOE^JANE/1972.jpg").encode() in written

    def test_prometheus_is_answered(self, tmp_path: Path) -> None:
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


def asked(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def test_without_prometheus_client_metrics_are_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'fundus-triton[watch]'")):
        PrometheusMetrics("127.0.0.1", free_port())


def test_a_port_that_is_taken_is_a_usage_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"Port {port} on 127.0.0.1 cannot be had: .* Choose another"):
            PrometheusMetrics("127.0.0.1", port)


def block(language: str) -> str:
    """The example in docs/watch.md in this language."""
    found = re.search(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found
    return found[1]


def check(program: str, *arguments: object) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_accepts_the_unit_in_the_docs(tmp_path: Path) -> None:
    unit = tmp_path / "fundus-watch.service"
    unit.write_text(block("ini").replace("/opt/fundus/bin/fundus-client", sys.executable))
    check("systemd-analyze", "verify", unit)
    check("systemd-analyze", "security", "--offline=true", "--threshold=20", unit)


def test_the_unit_in_the_docs_has_options_that_exist() -> None:
    (line,) = re.findall(r"ExecStart=(.*?)\n\w", block("ini"), re.DOTALL)
    known = {option for param in watch_command.params for option in param.opts}
    assert len(named := set(re.findall(r"--[a-z-]+", line))) == 5
    assert named <= known


def test_prometheus_accepts_the_rules_in_the_docs(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(block("yaml"))
    check("promtool", "check", "rules", tmp_path / "rules.yml")


def test_the_rules_in_the_docs_ask_for_metrics_that_exist() -> None:
    port = free_port()
    PrometheusMetrics("127.0.0.1", port)
    assert (named := set(re.findall(r"fundus_\w+", block("yaml"))))
    assert all(f"\n{name}" in asked(port) for name in named)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(watch_command, [*map(str, arguments), "--url", "127.0.0.1:1"])


def test_folders_in_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inbox" / "done").mkdir(parents=True)
    (tmp_path / "failed").mkdir()
    for done in (tmp_path / "inbox" / "done", tmp_path / "inbox", tmp_path):
        refused = invoke(tmp_path / "inbox", "--done", done, "--failed", tmp_path / "failed")
        assert "lie in each other" in str(refused.exception)


def test_a_second_watch_of_an_inbox_is_refused(places: Places) -> None:
    with inbox.only_watch(places.inbox):
        refused = invoke(places.inbox, "--done", places.done, "--failed", places.failed)
    assert "Another watch takes files" in str(refused.exception)
