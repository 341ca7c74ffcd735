"""Real archives: Orthanc and dcmtk from Debian, on free loopback ports, and small objects to send."""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="an archive needs the extra `pacs`")

from pydicom import Dataset
from pydicom.uid import generate_uid
from tests.dicom.objects import ophthalmic

from fundus_client.listener import free_port
from fundus_client.pacs.peer import Peer

OP_8_BIT = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
DCMTK = Path("/usr/bin")  # pynetdicom installs commands of the same names elsewhere


def program(name: str) -> str:
    """Return the path of a program of Debian; the test is skipped where it is not installed."""
    path = DCMTK / name if (DCMTK / name).exists() else shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed; apt-get install orthanc orthanc-dicomweb dcmtk stunnel4")
    return str(path)


def photograph(
    study_uid: str = "",
    series_uid: str = "",
    *,
    day: str = "20261124",
    modality: str = "OP",
    size_px: int = 16,
) -> Dataset:
    """Return a small ophthalmic photograph of nobody; equal UIDs put several into one study or series."""
    noise = np.random.default_rng(0).integers(0, 255, (size_px, size_px, 3), np.uint8)
    uids = {
        "StudyInstanceUID": study_uid or generate_uid(),
        "SeriesInstanceUID": series_uid or generate_uid(),
    }
    return ophthalmic(noise, **uids, StudyDate=day, Modality=modality, PatientName="No^Body", PatientID="0")


def save(objects: Sequence[Dataset], folder: Path) -> list[Path]:
    """Write objects as files, named by their UIDs."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{ds.SOPInstanceUID}.dcm" for ds in objects]
    for ds, path in zip(objects, paths, strict=True):
        ds.save_as(path, enforce_file_format=True)
    return paths


@dataclass
class Orthanc:
    """A running Orthanc: its AE by DIMSE, and its REST and DICOMweb by HTTP."""

    peer: Peer
    http: str
    process: subprocess.Popen[bytes]

    @property
    def dicomweb(self) -> str:
        """The root of DICOMweb."""
        return f"{self.http}/dicom-web"

    def ask(self, path: str, body: object = None, method: str | None = None) -> Any:
        """Ask the REST interface; a body is posted: bytes as they are, all else as JSON."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.http}{path}", data, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return json.loads(answer.read() or b"null")

    def upload(self, paths: Sequence[Path]) -> None:
        """Store files."""
        for path in paths:
            self.ask("/instances", path.read_bytes())

    def knows(self, name: str, peer: Peer) -> None:
        """Let it accept a peer, and find it as a destination."""
        self.ask(f"/modalities/{name}", [peer.ae_title, peer.host, peer.port], "PUT")

    def empty(self) -> None:
        """Delete every patient."""
        for patient in self.ask("/patients"):
            self.ask(f"/patients/{patient}", method="DELETE")

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()
        self.process.wait()


def start_orthanc(
    folder: Path, peers: dict[str, Peer], peer: Peer, http_port: int, **settings: Any
) -> Orthanc:
    """Start Orthanc with its data in `folder`; it keeps them over a restart with the same ports."""
    folder.mkdir(parents=True, exist_ok=True)
    defaults = {
        "Name": "TEST",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
        "DicomAet": peer.ae_title,
        "DicomPort": peer.port,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "OverwriteInstances": False,
        "DicomModalitiesInDatabase": False,
        "DicomModalities": {name: [each.ae_title, each.host, each.port] for name, each in peers.items()},
        "ConcurrentJobs": 2,
        "SynchronousCMove": True,
    }
    config = folder / "orthanc.json"
    config.write_text(json.dumps(defaults | settings))
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([program("Orthanc"), config], stdout=log, stderr=log)
    orthanc = Orthanc(peer, f"http://127.0.0.1:{http_port}", process)
    for _ in range(300):
        try:
            orthanc.ask("/system")
            return orthanc
        except OSError:
            time.sleep(0.05)
    orthanc.kill()
    raise AssertionError((folder / "log").read_text())


@pytest.fixture(scope="session")
def us() -> Peer:
    """Ourselves, as the archives of the tests know us: one listener at a time may take the port."""
    return Peer("FUNDUS", "127.0.0.1", free_port())


@pytest.fixture(scope="session")
def orthanc_server(tmp_path_factory: pytest.TempPathFactory, us: Peer) -> Iterator[Orthanc]:
    """One Orthanc for all tests; take `orthanc`, which is empty."""
    peer = Peer("ORTHANC", "127.0.0.1", free_port())
    server = start_orthanc(tmp_path_factory.mktemp("orthanc"), {"fundus": us}, peer, free_port())
    yield server
    server.kill()


@pytest.fixture
def orthanc(orthanc_server: Orthanc) -> Orthanc:
    """An empty Orthanc that knows `us`."""
    orthanc_server.empty()
    return orthanc_server


@pytest.fixture
def own_orthanc(tmp_path: Path, us: Peer) -> Iterator[Callable[..., Orthanc]]:
    """A function that starts an Orthanc which a test may kill; called again, it has the same data."""
    peer, http_port, started = Peer("OTHER", "127.0.0.1", free_port()), free_port(), []

    def start(**settings: Any) -> Orthanc:
        started.append(start_orthanc(tmp_path / "orthanc", {"fundus": us}, peer, http_port, **settings))
        return started[-1]

    yield start
    for each in started:
        each.kill()
