"""Objects to archives by STOW-RS: a real Orthanc, stunnel before it for TLS, and a fake server."""

import json
import logging
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import DataElement
from pydicom.config import IGNORE
from tests.certificates import issue_all
from tests.pacs.conftest import Orthanc, photograph, program, save
from tests.pacs.sending import run
from tests.pacs.webserver import Fake, fake

from fundus_client.listener import free_port
from fundus_client.pacs import outbox
from fundus_client.pacs.outbox import LEDGER
from fundus_core.errors import EXIT_RETRY_LATER, EXIT_SOME_FAILED


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """A folder with one object."""
    save([photograph()], tmp_path / "reports")
    return tmp_path / "reports"


def test_objects_are_stored_by_web_as_they_are(orthanc: Orthanc, tmp_path: Path) -> None:
    (path,) = save([photograph()], tmp_path / "reports")
    result = run(tmp_path / "reports", "--web", orthanc.dicomweb)
    assert result.stdout == f"sent 1 of 1 objects to {orthanc.dicomweb}\n"
    (instance,) = orthanc.ask("/instances")
    assert orthanc.ask(f"/instances/{instance}")["MainDicomTags"]["SOPInstanceUID"] == path.stem
    assert orthanc.ask(f"/instances/{instance}/attachments/dicom/size") == path.stat().st_size


def stored_json(uid: str, sequence: str, reason: dict[str, object]) -> bytes:
    item = {"00081155": {"vr": "UI", "Value": [uid]}, **reason}
    return json.dumps({sequence: {"vr": "SQ", "Value": [item]}}).encode()


FAILED, REFERENCED = "00081198", "00081199"


@pytest.mark.parametrize(
    ("code", "sequence", "reason", "exit_code", "line"),
    [
        (200, REFERENCED, {}, 0, None),
        (202, REFERENCED, {"00081196": {"vr": "US", "Value": [0xB000]}}, 0, "noted 1: 0xB000"),
        (200, FAILED, {"00081197": {"vr": "US", "Value": [0xA900]}}, EXIT_SOME_FAILED, "failed 1: 0xA900"),
        (409, FAILED, {"00081197": {"vr": "US", "Value": [0xA700]}}, EXIT_RETRY_LATER, "waiting 1: 0xA700"),
        (409, FAILED, {"00081197": {"vr": "US", "Value": [0x0122]}}, EXIT_SOME_FAILED, "failed 1: 0x0122"),
    ],
)
def test_the_answer_to_each_object_is_read(
    reports: Path, code: int, sequence: str, reason: dict[str, object], exit_code: int, line: str | None
) -> None:
    uid = next(reports.iterdir()).stem
    kind = "application/dicom+json; charset=utf-8"
    with fake(lambda request: request.reply(code, stored_json(uid, sequence, reason), kind)) as (url, _):
        result = run(reports, "--web", url)
    assert result.exit_code == exit_code
    assert line is None or result.stdout.splitlines()[1].startswith(line)


@pytest.mark.parametrize(
    ("code", "body", "exit_code"),
    [
        (200, b"", EXIT_RETRY_LATER),
        (200, b"{}", EXIT_RETRY_LATER),
        (500, b"", EXIT_RETRY_LATER),
        (413, b"", EXIT_SOME_FAILED),
        (403, b"", 1),
        (404, b"", 1),
    ],
)
def test_nothing_counts_as_sent_that_was_not_acknowledged(
    reports: Path, code: int, body: bytes, exit_code: int
) -> None:
    with fake(lambda request: request.reply(code, body)) as (url, _):
        result = run(reports, "--web", url)
    assert result.exit_code == exit_code
    assert "sent 1" not in result.stdout


def test_a_busy_server_gets_the_object_once_it_has_time(
    reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 0.01)
    uid, posts = next(reports.iterdir()).stem, dict[float, bytes]()

    def script(request: Fake) -> None:
        posts[time.monotonic()] = request.body
        if len(posts) == 1:
            request.reply(429, Retry_After="1")
        else:
            request.reply(200, stored_json(uid, REFERENCED, {}))

    with fake(script) as (url, _):
        result = run(reports, "--web", url, "--retry-for", "1m")
    assert result.exit_code == 0
    (first_at, first), (second_at, second) = posts.items()
    assert second_at - first_at >= 1.0
    assert uid.encode() in first
    assert uid.encode() in second


def test_an_object_that_the_server_falls_silent_over_holds_up_no_other(reports: Path) -> None:
    odd = next(reports.iterdir()).stem
    (other,) = save([photograph()], reports)

    def script(request: Fake) -> None:
        if odd.encode() in request.body:
            request.close_connection = True
        else:
            request.reply(200, stored_json(other.stem, REFERENCED, {}))

    with fake(script) as (url, _):
        result = run(reports, "--web", url)
    assert result.exit_code == EXIT_RETRY_LATER
    assert result.stdout.splitlines() == [
        f"sent 1 of 2 objects to {url}",
        "waiting 1: the archive fell silent",
    ]


def test_nothing_of_a_person_is_said_whatever_the_server_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    caplog.set_level(logging.DEBUG)
    ds = photograph()
    ds.PatientName, ds.PatientID = "YAMADA^TARO", "YAMADA"
    ds.add(DataElement("PatientBirthDate", "DA", "YAMADA", validation_mode=IGNORE))
    (path,) = save([ds], tmp_path / "reports")
    reason = {"00081197": {"vr": "US", "Value": [0xC000]}, "00000902": {"vr": "LO", "Value": ["YAMADA"]}}
    answer = stored_json(path.stem, FAILED, reason)
    with fake(lambda request: request.reply(202, answer, Warning="299 YAMADA")) as (url, _):
        result = run(path.parent, "--web", url)
    assert result.stdout.splitlines()[1] == "failed 1: 0xC000 Cannot Understand"
    said = [result.output, caplog.text, *(str(each.message) for each in recwarn)]
    assert "YAMADA" not in "".join(said)
    assert b"YAMADA" not in (path.parent / LEDGER).read_bytes()


def test_a_server_that_is_away_is_exit_code_4(reports: Path) -> None:
    result = run(reports, "--web", f"http://127.0.0.1:{free_port()}/dicom-web")
    assert result.exit_code == 4
    assert "does not answer" in result.stderr


def wait_until_open(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)


@contextmanager
def stunnel(folder: Path, files: dict[str, Path], to: str) -> Iterator[str]:
    """Give the address of a TLS proxy that wants our client's certificate."""
    port = free_port()
    settings = {
        "foreground": "yes",
        "pid": "",
        "[https]": None,
        "accept": f"127.0.0.1:{port}",
        "connect": to.removeprefix("http://"),
        "cert": files["server"],
        "key": files["server key"],
        "CAfile": files["ca"],
        "verifyChain": "yes",
    }
    lines = [name if value is None else f"{name} = {value}" for name, value in settings.items()]
    (folder / "stunnel.conf").write_text("\n".join(lines))
    process = subprocess.Popen([program("stunnel4"), folder / "stunnel.conf"], stderr=subprocess.DEVNULL)
    wait_until_open(port)
    try:
        yield f"https://127.0.0.1:{port}/dicom-web"
    finally:
        process.terminate()
        process.wait()


def test_tls_with_a_certificate_of_ours(
    orthanc: Orthanc, reports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = issue_all(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(files["ca"]))  # must not be trusted beside --tls-ca
    ours = ("--tls-cert", files["client"], "--tls-key", files["client key"])
    with stunnel(tmp_path, files, orthanc.http) as url:
        done = run(reports, "--web", url, "--tls-ca", files["ca"], *ours)
        assert (done.exit_code, done.stdout) == (0, f"sent 1 of 1 objects to {url}\n")
        save([photograph()], reports)
        for options in (("--tls-ca", files["theirs"], *ours), ("--tls-ca", files["ca"])):
            assert run(reports, "--web", url, *options).exit_code == 4
    assert len(orthanc.ask("/instances")) == 1
