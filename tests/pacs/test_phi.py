"""Nothing of a person gets out of DICOM objects but into reports on them, whatever goes wrong.

What may be said of an object: its UIDs, which eye, when, by what camera.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import urllib.error
import warnings
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("pynetdicom", reason="an archive needs the extra `pacs`")

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pynetdicom import build_context, evt
from pynetdicom.events import Event, EventHandlerType
from tests.conftest import COMMANDS, command, files_up_to
from tests.dicom.results import SPEC, scored
from tests.integration.conftest import read_rows, wait_for
from tests.pacs.conftest import OP_8_BIT, Orthanc
from tests.pacs.fakes import FIND
from tests.pacs.planting import FILED_BY, beyond, leaks, mark, objects, told
from tests.pacs.relay import recorded
from tests.pacs.webserver import fake

from fundus_client.cli import main
from fundus_client.dicom import reporting
from fundus_client.dicom.frames import Frames, unknown
from fundus_client.embedded import EmbeddedServer
from fundus_client.listener import free_port
from fundus_client.pacs.deidentify import KEPT
from fundus_client.pacs.peer import Peer
from fundus_client.pacs.scp import Listening, serving
from fundus_client.sources.disk import DiskSource

if importlib.util.find_spec("pytriton") is None:
    pytest.skip("needs the extra `embedded`: the wheel's tritonserver", allow_module_level=True)

VERIFICATION = "1.2.840.10008.1.1"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of values that are wrong on purpose
TALKATIVE = os.environ | {"PYTHONWARNINGS": "always"}
N_SCORED = 16  # frames: of all objects but four, and one has two


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    with warnings.catch_warnings(action="ignore"):  # what pydicom says of values that are wrong on purpose
        return objects()


@pytest.fixture(scope="module")
def planted(made: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "night"
    folder.mkdir()
    for name, data in made.items():
        (folder / f"{name}.dcm").write_bytes(data)
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(bytes(32))
    path.chmod(0o600)
    return path


def run(*arguments: object, code: int) -> None:
    """Run a command; what it prints says nothing of a person."""
    done = command("client", *arguments, env=TALKATIVE, timeout=60)
    said = str(done.stdout + done.stderr)
    assert done.returncode == code, said
    assert "Traceback" not in said, said
    assert not leaks(said.encode("utf-8", "surrogateescape")), said


def call(*arguments: object, code: int | None = None) -> None:
    """Do the same in this process, which is faster."""
    done = CliRunner().invoke(main, [str(each) for each in arguments])
    assert code is None or done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert not leaks(done.output.encode()), done.output


def test_tables_journals_and_reports_say_nothing(
    planted: Path, server: EmbeddedServer, key: Path, tmp_path: Path
) -> None:
    reports, output = tmp_path / "reports", tmp_path / "out" / "scores.csv"
    output.parent.mkdir()
    with recorded(server.grpc_address) as (address, sent):
        line = ("score", planted, "--output", output, "--url", address, "--patient-key", key)
        run(*line, "--sr", reports, "--pdf", code=3)
    statuses = {row["image_id"]: row["status"] for row in read_rows(output)}
    assert list(statuses.values()).count("scored") == N_SCORED, statuses
    assert told(output.parent) == {}
    assert b"fundus_ensemble" in sent
    assert not leaks(bytes(sent)), "what leaves for the server is a picture and no more"
    assert not leaks(server.log_path.read_bytes())
    written = sorted(reports.iterdir())
    assert len(written) == 2 * (N_SCORED - 2), "a report and a page of each object, less the one of no study"
    assert not any(leaks(path.name.encode()) for path in written)
    assert {path.name: said for path in written if (said := beyond(path))} == {}
    assert set[str]().union(*(leaks(path.read_bytes()) for path in written)) == FILED_BY


def test_pseudonymous_tables_say_nothing(
    planted: Path, server: EmbeddedServer, key: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "scores.parquet"
    output.parent.mkdir()
    line = ("score", planted, "--output", output, "--url", server.grpc_address, "--pseudonymise", key)
    run(*line, "--json", code=3)
    assert told(output.parent) == {}


def test_explanations_say_nothing_but_whose_eye_it_is(
    planted: Path, server: EmbeddedServer, tmp_path: Path
) -> None:
    images = [planted / f"{name}.dcm" for name in ("names in the eye", "two frames of jpeg", "no study")]
    line = ("explain", *images, "--output", tmp_path / "maps", "--masks", 50, "--url", server.grpc_address)
    call(*line, code=0)
    assert told(tmp_path / "maps", objects_too=False) == {}
    captures = list((tmp_path / "maps").rglob("*.heat.dcm"))
    assert len(captures) == 3, "of what has a study"
    assert not any(map(beyond, captures))


def test_what_cannot_be_copied_into_a_report_is_not_quoted(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Dataset:
        raise ValueError(NAMED)

    monkeypatch.setitem(reporting._MAKERS, "sr", fail)
    source = Frames(DiskSource([str(planted / "latin.dcm")]), unknown)
    assert not list(reporting.write_reports(source, lambda image_id: scored(0.5), SPEC, tmp_path, ["sr"]))
    assert [each.getMessage() for each in caplog.records] == [
        "latin.dcm has no report. Its header is damaged."
    ]


@pytest.fixture
def archive(orthanc: Orthanc, made: dict[str, bytes]) -> Orthanc:
    """Orthanc, with what it takes of all objects."""
    for data in made.values():
        with suppress(urllib.error.HTTPError):
            orthanc.ask("/instances", data)
    return orthanc


DAY = date.fromisoformat(mark(0x00080020, "DA"))
STAYING = frozenset(  # of de-identified copies: the camera, and what describes pixels
    each for each in KEPT if dictionary_VR(each) in ("CS", "DS", "IS") or each == "SoftwareVersions"
)


def test_pulls_say_nothing(archive: Orthanc, us: Peer, key: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("dimse", "web", "copies")]
    web = ("--web", archive.dicomweb)
    ways = [("--peer", archive.peer, "--port", us.port), web, (*web, "--deidentify", key)]
    for do, folder, way in zip((run, call, call), folders, ways, strict=True):
        do("pacs", "pull", folder, "--from", DAY, *way, code=3)
    assert told(tmp_path, objects_too=False) == {}
    pulled = [len(list(folder.rglob("*.dcm"))) for folder in folders]
    assert pulled[0] == pulled[1] >= 10
    assert pulled[2] >= 8
    copies = {path.name: beyond(path, STAYING) for path in folders[2].rglob("*.dcm")}
    assert {name: said for name, said in copies.items() if said} == {}


def test_a_listener_and_whoever_sends_to_it_say_nothing(
    planted: Path, orthanc: Orthanc, server: EmbeddedServer, tmp_path: Path
) -> None:
    folder, port, log = tmp_path / "service", free_port(), tmp_path / "service" / "events"
    folder.mkdir()
    line = ("pacs", "listen", folder, "--peer", orthanc.peer, "--port", port, "--quiet", "0.3")
    with (tmp_path / "said").open("wb") as said:
        service = subprocess.Popen(
            [COMMANDS / "fundus-client", *map(str, line), "--url", server.grpc_address, "--log", log],
            stdout=said,
            stderr=said,
            env=TALKATIVE,
        )
    try:
        wait_for(lambda: log.exists() and "started" in log.read_text())
        sent = shutil.copytree(planted, tmp_path / "sent")
        run("pacs", "send", sent, "--peer", f"FUNDUS@127.0.0.1:{port}", "--retry-for", "0s", code=3)
        wait_for(lambda: len(orthanc.ask("/tools/find", SEARCH)) >= 10)
    finally:
        service.kill()
        service.wait()
    assert any(path.name.endswith("-wal") for path in folder.rglob("*")), "what a power cut leaves"
    assert told(folder, objects_too=False) == {}
    assert told(sent, objects_too=False) == {}
    assert not leaks((tmp_path / "said").read_bytes())
    assert not any(map(beyond, folder.glob("reports/*/*.dcm")))


SEARCH = {"Level": "Instance", "Query": {"Modality": "SR"}}


def test_failures_say_nothing(
    planted: Path, orthanc: Orthanc, server: EmbeddedServer, us: Peer, tmp_path: Path
) -> None:
    objects, away, listening = tmp_path / "objects", f"127.0.0.1:{free_port()}", ("--port", us.port)
    objects.mkdir()
    for name in ("latin", "broken"):
        shutil.copy(planted / f"{name}.dcm", objects)
    orthanc.upload(list(objects.iterdir()))
    pull, send = ("pacs", "pull", tmp_path / "in", "--from", DAY), ("pacs", "send", objects)
    score = ("score", objects, "--output", tmp_path / "scores.csv", "--wait", 0.1, "--url")
    for command_ in (pull, send):
        call(*command_, "--peer", f"ORTHANC@{away}", *listening, code=4)
        call(*command_, "--web", f"http://{away}/dicom-web", code=4)
    call(*pull, "--peer", f"WRONG@{orthanc.peer.address}", *listening, code=1)
    call(*pull, "--peer", orthanc.peer, "--aet", "STRANGER", *listening, code=1)
    with files_up_to(100_000):  # room for a ledger, not for an object
        call(*pull, "--peer", orthanc.peer, *listening, code=3)
        call(*pull, "--web", orthanc.dicomweb, code=3)
    call(*score, away, code=4)
    with files_up_to(3000):
        run(*score, server.grpc_address, code=1)
    call("doctor", "--url", server.grpc_address, code=0)
    assert told(tmp_path, objects_too=False) == {}


NAMED = mark(0x00100010, "PN")
WEB_ANSWERS = {
    "a page": (200, f"<h1>{NAMED}</h1>", "text/html"),
    "no json": (200, f"{{{NAMED}", "application/dicom+json"),
    "names for uids": (
        200,
        json.dumps([{"0020000D": {"vr": "UI", "Value": [NAMED]}, "0020000E": {"vr": "PN", "Value": [{}]}}]),
        "application/dicom+json",
    ),
    "an error": (500, f"No place for {NAMED}", "text/plain"),
    "a conflict": (409, f"{NAMED} is there", "application/dicom+json"),
}


@pytest.mark.parametrize("answer", WEB_ANSWERS)
def test_what_a_web_archive_says_is_not_repeated(answer: str, planted: Path, tmp_path: Path) -> None:
    code, body, kind = WEB_ANSWERS[answer]
    (tmp_path / "out").mkdir()
    shutil.copy(planted / "latin.dcm", tmp_path / "out")
    with fake(lambda request: request.reply(code, body.encode(), kind, Warning=NAMED)) as (url, _):
        call("pacs", "pull", tmp_path / "in", "--from", DAY, "--web", url)
        call("pacs", "send", tmp_path / "out", "--web", url)
    assert told(tmp_path, objects_too=False) == {}


def test_what_an_archive_says_is_not_repeated(planted: Path, tmp_path: Path, us: Peer) -> None:
    (tmp_path / "out").mkdir()
    shutil.copy(planted / "latin.dcm", tmp_path / "out")

    def refused(event: Event) -> Dataset:
        answer = Dataset()
        answer.Status, answer.ErrorComment = 0xC000, NAMED
        return answer

    def found(event: Event) -> Iterator[tuple[Dataset | int, Dataset | None]]:
        match = Dataset()
        match.StudyInstanceUID = match.PatientName = match.Modality = NAMED
        yield 0xFF00, match
        yield refused(event), None

    handlers: list[EventHandlerType] = [(evt.EVT_C_FIND, found), (evt.EVT_C_STORE, refused)]
    contexts = [build_context(FIND), *(build_context(uid) for uid in (OP_8_BIT, VERIFICATION))]
    with serving(Listening("FAKE", port=0), contexts, handlers) as port:
        peer = ("--peer", f"FAKE@127.0.0.1:{port}", "--port", us.port)
        call("pacs", "pull", tmp_path / "in", "--from", DAY, *peer, code=1)
        call("pacs", "send", tmp_path / "out", *peer, code=3)
    assert told(tmp_path, objects_too=False) == {}
