"""The service: nothing received is lost, and each object has one report or one reason, whatever dies when."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="an archive needs the extra `pacs`")

from tests.client.fakes import SPEC
from tests.client.test_journal import scored
from tests.conftest import COMMANDS
from tests.dicom.objects import file_of, ophthalmic, phantom
from tests.integration.conftest import wait_for
from tests.pacs.conftest import Orthanc, program
from tests.pacs.photographs import SECRETS, photograph
from tests.pacs.test_night import reported

from fundus_client.dicom.frames import unknown
from fundus_client.embedded import EmbeddedServer
from fundus_client.listener import free_port
from fundus_client.pacs.day import OBJECTS, OPEN, Day, left_open, open_day, prune
from fundus_client.pacs.studies import Studies

if importlib.util.find_spec("pytriton") is None:
    pytest.skip("needs the extra `embedded`: the wheel's tritonserver", allow_module_level=True)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def put(spool: Path, study: str, *names: str) -> None:
    (spool / study).mkdir(parents=True, exist_ok=True)
    for name in names:
        (spool / study / f"{name}.dcm").write_bytes(
            file_of(ophthalmic(phantom(), StudyInstanceUID=study, SOPInstanceUID=f"1.2.{name}"))
        )


def test_a_study_is_complete_when_nothing_came_for_a_while(tmp_path: Path) -> None:
    clock = Clock()
    studies = Studies(tmp_path, 60, clock)
    put(tmp_path, "1.1", "1")
    (tmp_path / ".incoming").mkdir()
    (tmp_path / ".incoming" / "half").touch()
    assert studies.complete() == []
    clock.now += 59
    put(tmp_path, "1.1", "3")
    assert studies.complete() == []
    clock.now += 59
    assert studies.complete() == []
    clock.now += 1
    assert studies.complete() == [tmp_path / "1.1"]
    for path in (tmp_path / "1.1").iterdir():
        path.unlink()
    clock.now += 1000
    assert studies.complete() == [], "an empty folder is no study"


def test_only_folders_that_stay_empty_are_removed(tmp_path: Path) -> None:
    old, young, full = (tmp_path / name for name in ("1.1", "1.2", "1.3"))
    for folder in (old, young):
        folder.mkdir()
    put(tmp_path, full.name, "1")
    for folder in (old, full):
        os.utime(folder, (0, 0))
    Studies(tmp_path, 60).tidy()
    assert sorted(tmp_path.iterdir()) == [young, full]


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("days", "spool"):
        (tmp_path / name).mkdir()
    put(tmp_path / "spool", "1.1", "1", "2")
    put(tmp_path / "spool", "1.2", "3")
    return tmp_path / "days", tmp_path / "spool"


def ids(day: Day) -> list[str]:
    return [ref.image_id for ref in day.everything(unknown)]


def table(folder: Path) -> dict[str, str]:
    with (folder / "scores.csv").open(newline="") as file:
        return {row["image_id"]: row["status"] for row in csv.DictReader(file)}


def answer(day: Day, *image_ids: str) -> None:
    stamps = {ref.image_id: ref.stamp() for ref in day.everything(unknown)}
    for number, image_id in enumerate(image_ids):
        day.journal.record(image_id, stamps[image_id], scored(image_id, f"{number}"))
    day.journal.commit()


def test_what_gets_no_answer_goes_back_and_has_no_row(places: tuple[Path, Path]) -> None:
    days, spool = places
    with open_day(days, spool, SPEC, unknown) as day:
        day.journal.register(day.take(sorted(spool.iterdir())).refs)
        answer(day, "1.1/1.dcm")
        assert day.settle(day.everything(unknown)) == {"scored": 1}
        assert ids(day) == ["1.1/1.dcm"]
        assert table(day.folder) == {"1.1/1.dcm": "scored"}
    assert sorted(path.name for path in spool.rglob("*.dcm")) == ["2.dcm", "3.dcm"]
    assert not (day.folder / OPEN).exists()


def test_what_a_killed_process_left_is_settled_by_the_next_one(places: tuple[Path, Path]) -> None:
    days, spool = places
    with pytest.raises(KeyError), open_day(days, spool, SPEC, unknown) as day:
        day.journal.register(day.take(sorted(spool.iterdir())).refs)
        answer(day, "1.1/1.dcm", "1.2/3.dcm")
        raise KeyError
    assert not list(spool.rglob("*.dcm"))
    (again,) = (ids(day) for day in left_open(days, spool, unknown))
    assert again == ["1.1/1.dcm", "1.2/3.dcm"]
    assert table(day.folder) == dict.fromkeys(again, "scored")
    assert [path.name for path in spool.rglob("*.dcm")] == ["2.dcm"]
    assert list(left_open(days, spool, unknown)) == []


def test_another_bundle_has_a_folder_of_its_own(places: tuple[Path, Path]) -> None:
    days, spool = places
    with (
        open_day(days, spool, SPEC, unknown),
        open_day(days, spool, replace(SPEC, version="2"), unknown),
    ):
        pass
    assert len(list(days.iterdir())) == 2


def test_objects_of_old_days_go_and_their_tables_stay(places: tuple[Path, Path]) -> None:
    days, spool = places
    with open_day(days, spool, SPEC, unknown) as day:
        day.take(sorted(spool.iterdir()))
        prune(days, date.today() + timedelta(1))
        assert len(ids(day)) == 3, "an open folder is left alone"
        day.journal.register(day.everything(unknown))
        answer(day, *ids(day))
        day.settle(day.everything(unknown))
    prune(days, date.today())
    assert (day.folder / OBJECTS).exists()
    prune(days, date.today() + timedelta(1))
    assert not (day.folder / OBJECTS).exists()
    assert len(table(day.folder)) == 3


class Service:
    """`fundus-client pacs listen` as a process."""

    def __init__(self, folder: Path, orthanc: Orthanc, server: EmbeddedServer) -> None:
        self.folder, self.port, self.log = folder, free_port(), folder / "events"
        peers = ("--peer", orthanc.peer, "--port", self.port, "--allow", "CAMERA", "--quiet", "0.5")
        self.line = ["pacs", "listen", folder, *peers, "--url", server.grpc_address, "--log", self.log]
        self.log.touch()
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        n_before = self.log.read_text().count("started")
        self.process = subprocess.Popen([COMMANDS / "fundus-client", *map(str, self.line)])
        wait_for(lambda: self.process.poll() is not None or self.log.read_text().count("started") > n_before)
        assert self.process.poll() is None
        return self.process

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def events(self, name: str) -> list[dict[str, object]]:
        return [each for each in map(json.loads, self.log.read_text().splitlines()) if each["event"] == name]

    def statuses(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in self.folder.glob("days/*/scores.csv"):
            with path.open(newline="") as file:
                found |= {row["sop_uid"]: row["reason"].partition(":")[0] for row in csv.DictReader(file)}
        return found


@pytest.fixture
def service(tmp_path: Path, orthanc: Orthanc, server: EmbeddedServer) -> Iterator[Service]:
    folder = tmp_path / "service"
    folder.mkdir()
    running = Service(folder, orthanc, server)
    yield running
    running.process.kill()
    running.process.wait()


def send(service: Service, folder: Path, first: int, count: int, caller: str = "CAMERA") -> list[str]:
    """Send `count` objects and a cut one as a camera does; return the UIDs that were acknowledged."""
    folder.mkdir()
    for number in range(first, first + count + 1):
        made = photograph(number, cut=number == first)
        (folder / made.SOPInstanceUID).write_bytes(file_of(made))
    report = folder.with_suffix(".txt")
    line = [
        program("dcmsend"),
        "-aet",
        caller,
        "-aec",
        "FUNDUS",
        "+crf",
        report,
        "--no-halt",
        "+sd",
        "127.0.0.1",
    ]
    subprocess.run(
        [*map(str, line), str(service.port), str(folder)], capture_output=True, check=False, timeout=60
    )
    blocks = report.read_text().split("\n\n") if report.exists() else []
    return [path.name for path in folder.iterdir() if any(path.name in b and "Success" in b for b in blocks)]


def test_what_was_acknowledged_has_one_report_or_one_reason_although_all_is_killed(
    service: Service, orthanc: Orthanc, tmp_path: Path
) -> None:
    acknowledged = send(service, tmp_path / "first", 0, 20)
    wait_for(lambda: any(service.folder.glob("days/*/objects/*/*.dcm")))
    service.end(signal.SIGKILL)
    service.start()
    acknowledged += send(service, tmp_path / "second", 100, 5)
    assert len(acknowledged) == 27
    wait_for(lambda: len(service.statuses()) == 27 and len(reported(orthanc)) == 25)
    time.sleep(1.5)  # a second report of anything would come now
    statuses = service.statuses()
    assert sorted(statuses) == sorted(acknowledged)
    assert sorted(statuses.values()) == [""] * 25 + ["corrupt"] * 2
    counts = reported(orthanc)
    assert set(counts.values()) == {1}
    assert {about for _, about in counts} == {uid for uid, reason in statuses.items() if not reason}
    assert service.end(signal.SIGTERM) == 0
    assert service.events("stopped")
    assert not [secret for secret in SECRETS if secret in service.log.read_text()]


def test_a_stranger_is_refused(service: Service, tmp_path: Path) -> None:
    assert send(service, tmp_path / "in", 0, 1, caller="STRANGER") == []
    assert not list(service.folder.glob("spool/*/*"))
