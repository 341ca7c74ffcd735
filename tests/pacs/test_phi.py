"""Nothing of a person gets out of DICOM objects but into reports on them: whatever is run, and whatever goes wrong.

What may be said of an object: its UIDs, which eye, when, by what camera.
"""

import importlib.util
import os
import shutil
import subprocess
import urllib.error
import warnings
from contextlib import suppress
from datetime import date
from io import BytesIO
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="an archive needs the extra `pacs`")

from pydicom import dcmread, dcmwrite
from pydicom.datadict import dictionary_VR
from tests.conftest import COMMANDS, command
from tests.integration.conftest import read_rows, wait_for
from tests.pacs.conftest import Orthanc
from tests.pacs.planting import FILED_BY, leaks, mark, objects, readable
from tests.pacs.relay import recorded

from fundus_client.embedded import EmbeddedServer
from fundus_client.listener import free_port
from fundus_client.pacs.deidentify import KEPT
from fundus_client.pacs.peer import Peer

if importlib.util.find_spec("pytriton") is None:
    pytest.skip("needs the extra `embedded`: the wheel's tritonserver", allow_module_level=True)

TALKATIVE = os.environ | {"PYTHONWARNINGS": "always"}
N_SCORED = 17  # frames: of all objects but four, and one has two


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


def run(*arguments: object, code: int) -> str:
    """Run a command; what it prints says nothing of a person."""
    done = command("client", *arguments, env=TALKATIVE)
    said = str(done.stdout + done.stderr)
    assert done.returncode == code, said
    assert "Traceback" not in said, said
    assert not leaks(said.encode("utf-8", "surrogateescape")), said
    return said


def told(folder: Path, *, objects_too: bool = True) -> dict[str, set[str]]:
    """Return what the names and contents of files say, by file; only those that say anything."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        is_read = path.is_file() and (objects_too or path.suffix != ".dcm")
        found[name] = leaks(name.encode()) | (leaks(readable(path.read_bytes())) if is_read else set())
    return {name: marks for name, marks in found.items() if marks}


def beyond_the_patient(path: Path) -> set[str]:
    """Return what an object of ours says but by whom it is filed."""
    ours = dcmread(path)
    for keyword in FILED_BY & {*ours.dir()}:
        del ours[keyword]
    with BytesIO() as buffer:
        dcmwrite(buffer, ours)
        return leaks(readable(buffer.getvalue()))


def test_tables_journals_and_reports_say_nothing(
    planted: Path, server: EmbeddedServer, tmp_path: Path
) -> None:
    key, reports, output = tmp_path / "key", tmp_path / "reports", tmp_path / "out" / "scores.csv"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    reports.mkdir()
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
    assert len(written) == 2 * (N_SCORED - 2), "a report and a page of each object, less the one without UIDs"
    assert not any(leaks(path.name.encode()) for path in written)
    assert {path.name: said for path in written if (said := beyond_the_patient(path))} == {}
    assert any("PatientName" in leaks(path.read_bytes()) for path in written)


def test_pseudonymous_tables_say_nothing(planted: Path, server: EmbeddedServer, tmp_path: Path) -> None:
    key, output = tmp_path / "key", tmp_path / "out" / "scores.parquet"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    output.parent.mkdir()
    line = ("score", planted, "--output", output, "--url", server.grpc_address, "--pseudonymise", key)
    run(*line, "--json", code=3)
    assert told(output.parent) == {}


def test_explanations_say_nothing_but_whose_eye_it_is(
    planted: Path, server: EmbeddedServer, tmp_path: Path
) -> None:
    images = [planted / f"{name}.dcm" for name in ("broken", "two frames of jpeg", "no uids")]
    line = ("explain", *images, "--output", tmp_path / "maps", "--masks", 50, "--url", server.grpc_address)
    run(*line, code=0)
    assert told(tmp_path / "maps", objects_too=False) == {}
    captures = list((tmp_path / "maps").rglob("*.dcm"))
    assert len(captures) == 3
    assert not any(map(beyond_the_patient, captures))


@pytest.fixture
def archive(orthanc: Orthanc, made: dict[str, bytes]) -> Orthanc:
    """Orthanc, with what it takes of all objects."""
    for data in made.values():
        with suppress(urllib.error.HTTPError):
            orthanc.ask("/instances", data)
    return orthanc


DAY = date.fromisoformat(mark(0x00080020, "DA"))
STAYING = {keyword for keyword in KEPT if dictionary_VR(keyword) in ("CS", "DS", "IS")} | {"SoftwareVersions"}


def test_pulls_say_nothing(archive: Orthanc, us: Peer, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    folders = [tmp_path / name for name in ("dimse", "web", "copies")]
    ways = [("--peer", archive.peer, "--port", us.port), ("--web", archive.dicomweb)]
    for folder, way in zip(folders, [*ways, (*ways[1], "--deidentify", key)], strict=True):
        run("pacs", "pull", folder, "--from", DAY, *way, code=0 if folder != folders[2] else 3)
        assert told(folder, objects_too=False) == {}
    pulled = [len(list(folder.rglob("*.dcm"))) for folder in folders]
    assert pulled[0] == pulled[1] >= 10
    assert pulled[2] >= 8
    copied = {name: marks - STAYING for name, marks in told(folders[2]).items()}
    assert {name: marks for name, marks in copied.items() if marks} == {}


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
    assert not any(map(beyond_the_patient, folder.glob("reports/*/*.dcm")))


SEARCH = {"Level": "Instance", "Query": {"Modality": "SR"}}


def test_the_search_finds_what_was_planted(made: dict[str, bytes], tmp_path: Path) -> None:
    assert leaks(made["latin"]) >= {"PatientName", "PatientBirthDate", "PatientID", "DeviceSerialNumber"}
