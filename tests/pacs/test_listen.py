"""The service: nothing received is lost, and each object has one report or one reason, whatever dies when."""

import csv
import errno
import importlib.util
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

pytest.importorskip("pynetdicom", reason="an archive needs the extra `pacs`")

from tests.conftest import COMMANDS
from tests.dicom.objects import file_of
from tests.integration.conftest import wait_for
from tests.pacs.conftest import Orthanc, program
from tests.pacs.photographs import SECRETS, photograph
from tests.pacs.test_night import reported

from fundus_client.cli import main
from fundus_client.dicom.frames import Frames, unknown
from fundus_client.embedded import EmbeddedServer
from fundus_client.listener import free_port
from fundus_client.member import Patience
from fundus_client.pacs import listen
from fundus_client.pacs.day import Day
from fundus_client.pacs.listen import Rooms, Scoring
from fundus_client.pacs.studies import Studies
from fundus_client.servers import RemoteEndpoint
from fundus_client.watching.events import EventLog
from fundus_core.ensemble import ENSEMBLE_MODEL
from fundus_core.errors import UsageError

if importlib.util.find_spec("pytriton") is None:
    pytest.skip("needs the extra `embedded`: the wheel's tritonserver", allow_module_level=True)


class Full(Scoring):
    """The disk is full when the first report is to be written."""

    n_reports = 0

    def _report(self, day: Day, source: Frames) -> int:
        self.n_reports += 1
        if self.n_reports == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super()._report(day, source)


def test_a_report_that_could_not_be_written_is_written_later(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "REOPEN_S", 0.1)
    rooms, written, events = Rooms(tmp_path), list[Path](), io.StringIO()
    rooms.make()
    made = photograph(0)
    (rooms.spool / "1.1").mkdir()
    (rooms.spool / "1.1" / "1.dcm").write_bytes(file_of(made))

    def enough(path: Path) -> None:
        written.append(path)
        raise KeyboardInterrupt

    studies = Studies(rooms.spool, 0)
    scoring = Full(rooms, studies, unknown, ["sr"], 30, EventLog(events), enough)
    with pytest.raises(KeyboardInterrupt):
        scoring.run([RemoteEndpoint(server.grpc_address, None)], Patience(30, 30), ENSEMBLE_MODEL)
    assert [path.is_file() for path in written] == [True]
    assert '"reason": "disk"' in events.getvalue()


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


@pytest.mark.parametrize(("option", "is_encrypted"), [("--tls-ca", False), ("--archive-ca", True)])
def test_the_tls_of_the_servers_is_not_that_of_the_archive(
    option: str, is_encrypted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def refuse(*arguments: object) -> None:
        asked.extend(arguments)
        raise UsageError("That is all.")

    monkeypatch.setattr(sys.modules["fundus_client.commands.pacs.listen"], "sender_to", refuse)
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    line = ["pacs", "listen", str(tmp_path), "--peer", "A@b:104", option, str(tmp_path / "ca.pem")]
    assert CliRunner().invoke(main, line).exit_code == 2
    assert (asked[3] is not None) == is_encrypted
