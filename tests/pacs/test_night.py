"""A night in miniature: out of a real Orthanc, through two real tritonservers of which one dies, and back.

What became of each object is asked of Orthanc itself: exactly one report, or a reason in the table.
"""

import csv
import importlib.util
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="an archive needs the extra `pacs`")

from tests.conftest import COMMANDS, command
from tests.dicom.objects import file_of
from tests.integration.conftest import n_committed, server_processes, wait_for
from tests.pacs.conftest import Orthanc
from tests.pacs.photographs import SECRETS, photograph

from fundus_client.embedded import EmbeddedServer, embedded_server
from fundus_client.pacs.peer import Peer

if importlib.util.find_spec("pytriton") is None:
    pytest.skip("needs the extra `embedded`: the wheel's tritonserver", allow_module_level=True)

N_OBJECTS, N_CORRUPT = 500, 5


@pytest.fixture
def night(orthanc: Orthanc) -> list[str]:
    """The UIDs of what lies in the archive in the evening."""
    sent = []
    for number in range(N_OBJECTS):
        made = photograph(number, native=number >= N_CORRUPT and number % 2 == 0, cut=number < N_CORRUPT)
        orthanc.ask("/instances", file_of(made))
        sent.append(made.SOPInstanceUID)
    return sent


@pytest.fixture
def servers(tiny_repository: Path) -> Iterator[list[EmbeddedServer]]:
    with embedded_server(tiny_repository) as first, embedded_server(tiny_repository) as second:
        yield [first, second]


def reported(orthanc: Orthanc) -> Counter[tuple[str, str]]:
    """How many reports Orthanc has about each (study, object)."""
    found = orthanc.ask("/tools/find", {"Level": "Instance", "Query": {"Modality": "SR"}})
    counts = Counter[tuple[str, str]]()
    for each in found:
        tags = orthanc.ask(f"/instances/{each}/simplified-tags")
        (study,) = tags["CurrentRequestedProcedureEvidenceSequence"]
        (series,) = study["ReferencedSeriesSequence"]
        (about,) = series["ReferencedSOPSequence"]
        assert tags["StudyInstanceUID"] == study["StudyInstanceUID"], "in the study of the photograph"
        assert tags["VerificationFlag"] == "UNVERIFIED"
        counts[study["StudyInstanceUID"], about["ReferencedSOPInstanceUID"]] += 1
    return counts


def run(*arguments: object, code: int) -> str:
    done = command("client", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return str(done.stdout + done.stderr)


def pull(orthanc: Orthanc, us: Peer, folder: Path) -> str:
    dates = ("--from", "2026-11-24", "--peer", orthanc.peer, "--port", us.port)
    return run("pacs", "pull", folder, *dates, code=0)


def score_while_a_server_dies(
    folder: Path, output: Path, reports: Path, servers: list[EmbeddedServer]
) -> str:
    urls = [each for server in servers for each in ("--url", server.grpc_address)]
    line = [COMMANDS / "fundus-client", "score", folder, "--output", output, "--sr", reports, *urls]
    client = subprocess.Popen(
        [*map(str, line), "--in-flight", "8"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: client.poll() is not None or n_committed(output) > N_OBJECTS // 10)
    assert client.poll() is None, "the run ended before the server could be killed"
    os.kill(server_processes(servers[0].supervisor.pid)[0], signal.SIGKILL)
    said = client.communicate(timeout=120)[0]
    assert client.returncode == 3, said
    return said


def test_every_object_has_one_report_or_one_reason(
    orthanc: Orthanc, us: Peer, night: list[str], servers: list[EmbeddedServer], tmp_path: Path
) -> None:
    folder, reports, output = tmp_path / "night", tmp_path / "reports", tmp_path / "night.csv"
    said = pull(orthanc, us, folder)
    assert sorted(path.stem for path in folder.rglob("*.dcm")) == sorted(night), said
    said += score_while_a_server_dies(folder, output, reports, servers)
    said += run("pacs", "send", reports, "--peer", orthanc.peer, code=0)
    with output.open(newline="") as file:
        rows = {row["sop_uid"]: row for row in csv.DictReader(file)}
    failed = [uid for uid, row in rows.items() if row["status"] == "failed"]
    assert sorted(rows) == sorted(night)
    assert sorted(failed) == sorted(night[:N_CORRUPT])
    assert {rows[uid]["reason"].partition(":")[0] for uid in failed} == {"corrupt"}
    assert reported(orthanc) == Counter(
        {(row["study_uid"], uid): 1 for uid, row in rows.items() if row["status"] == "scored"}
    )
    assert not [secret for secret in SECRETS if secret in said + output.read_text()]
    again = pull(orthanc, us, folder) + run("pacs", "send", reports, "--peer", orthanc.peer, code=0)
    assert "pulled 0 objects" in again and f"{len(night) // 2} series were here" in again
    assert "sent 495 of 495 objects" in again and "495 of them before" in again
