"""The archive's side: how fast objects are received, pulled, reported and sent, beside dcmtk and Orthanc.

    python benchmarks/pacs.py [--repeats 3]

Everything on loopback and on the same cores, in turn; what is received is new to the receiver every time.
- receive: dcmtk's `dcmsend` sends the same objects to our listener, which has each on the disk before it
  answers, to dcmtk's `storescp`, which leaves them to the system, and to Orthanc as Debian installs it;
- pull: series of two objects from Orthanc, by C-MOVE and by DICOMweb, as `fundus-client pacs pull` does;
- send: structured reports made and written, then sent to Orthanc by C-STORE and by STOW-RS as `fundus-client
  pacs send` does, and by `dcmsend`, which remembers nothing;
- night: the three commands on phantoms, with the reference ensemble, and `score` without reports.

dcmtk, and Orthanc that is made of it, run with TCP_NODELAY=1: without it they wait 80 ms for each other at
every object. Needs Orthanc with DICOMweb, and dcmtk. Printed, and written to benchmarks/results/pacs.json.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from machine import command_line, median_ratio, write_results
from pydicom import Dataset
from pydicom.uid import JPEGBaseline8Bit, generate_uid

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.dicom.objects import ACQUIRED, jpeg, ophthalmic, photograph, with_streams
from tests.pacs.conftest import Orthanc, program, save, start_orthanc

from fundus_client.dicom.frames import Frame, Frames, unknown
from fundus_client.dicom.reporting import write_reports
from fundus_client.embedded import embedded_server
from fundus_client.listener import free_port
from fundus_client.pacs.archive import Archive, Query
from fundus_client.pacs.outbox import LEDGER, Outbox, open_sent_ledger
from fundus_client.pacs.peer import Caller, Peer
from fundus_client.pacs.pull import Manners, open_pull
from fundus_client.pacs.receive import Listening, receiving
from fundus_client.pacs.retrieve import open_dimse
from fundus_client.pacs.send import DimseSender, Sender
from fundus_client.pacs.spool import open_spool
from fundus_client.pacs.web import WebArchive, WebSender, open_web
from fundus_client.servers import reference_repository
from fundus_client.sources.disk import DiskSource
from fundus_core.ensemble import read_manifest
from fundus_core.rows import ScoreRow

N_SMALL, N_LARGE, N_PULLED, N_REPORTS, N_NIGHT = 400, 100, 200, 300, 48
NOISE_PX, PHOTOGRAPH_PX = 920, 1500  # noise of 920 pixels makes a JPEG of 1 MB
TIMEOUT_S = 60.0
US, CALLER = Peer("FUNDUS", "127.0.0.1", free_port()), Caller()

Row = Callable[[Path], float]  # measures once, in an empty folder: objects/s


def main() -> None:
    """Measure, print, write."""
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats, results = parser.parse_args().repeats, {}
    os.environ["TCP_NODELAY"] = "1"
    for part in (receive, pull, send, night):
        with tempfile.TemporaryDirectory() as name, orthanc(Path(name)) as archive:
            results[part.__name__] = part(archive, Path(name), repeats)
        print(part.__name__, json.dumps(results[part.__name__], indent=2))
    write_results("pacs", results)


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start Orthanc with its own settings of the disk; it takes objects of anybody."""
    peer, anybody = Peer("ORTHANC", "127.0.0.1", free_port()), {"DicomAlwaysAllowStore": True}
    started = start_orthanc(folder / "orthanc", {"fundus": US}, peer, free_port(), **anybody)
    try:
        yield started
    finally:
        started.kill()


def receive(archive: Orthanc, folder: Path, repeats: int) -> dict[str, Any]:
    """Return objects/s that each receiver takes from `dcmsend`."""
    noise = np.random.default_rng(0).integers(0, 256, (NOISE_PX, NOISE_PX, 3), np.uint8)
    large = with_streams(ophthalmic(noise), [jpeg(noise)], JPEGBaseline8Bit, "YBR_FULL_422")
    kinds = {"small": copies(photograph(), N_SMALL, folder / "small")}
    kinds["1 MB"] = copies(large, N_LARGE, folder / "large")
    return {kind: received(archive, paths, folder, repeats) for kind, paths in kinds.items()}


def received(archive: Orthanc, paths: Sequence[Path], folder: Path, repeats: int) -> dict[str, Any]:
    """Return objects/s of one kind of object."""

    def ours(place: Path) -> float:
        with receiving(place, Listening(port=US.port), lambda stored: None):
            return into(place, US, paths)

    def dcmtk(place: Path) -> float:
        with storescp(place) as peer:
            return into(place, peer, paths)

    rows: dict[str, Row] = {
        "our listener": ours,
        "storescp": dcmtk,
        "Orthanc": lambda _: into_orthanc(archive, paths),
    }
    found = compared("objects_per_s", rows, "our listener", folder, repeats)
    return {"bytes": paths[0].stat().st_size, **found}


def into(place: Path, peer: Peer, paths: Sequence[Path]) -> float:
    """Return objects/s of `dcmsend` to a receiver that stores them below `place`."""
    speed = dcmsend(peer, paths)
    check(sum(path.is_file() for path in place.rglob("*")), len(paths))
    return speed


def into_orthanc(archive: Orthanc, paths: Sequence[Path]) -> float:
    """Return objects/s of `dcmsend` to an Orthanc that has none of them."""
    archive.empty()
    speed = dcmsend(archive.peer, paths)
    check(archive.ask("/statistics")["CountInstances"], len(paths))
    return speed


def pull(archive: Orthanc, folder: Path, repeats: int) -> dict[str, Any]:
    """Return objects/s of a pull, by each way."""
    for each in [photograph() for _ in range(N_PULLED // 2)]:
        archive.upload(copies(each, 2, folder / "in"))

    def by_move(place: Path) -> float:
        with open_dimse(place, archive.peer, CALLER, Listening(port=US.port)) as opened:
            return pulled(opened, place)

    def by_web(place: Path) -> float:
        with open_spool(place) as spool:
            return pulled(WebArchive(open_web(archive.dicomweb, None, TIMEOUT_S), spool), place)

    rows: dict[str, Row] = {"C-MOVE": by_move, "DICOMweb": by_web}
    return compared("objects_per_s", rows, "C-MOVE", folder, repeats)


def pulled(archive: Archive, folder: Path) -> float:
    """Return objects/s of a pull into a folder."""
    query, started_s = Query(ACQUIRED.date(), ACQUIRED.date()), time.monotonic()
    with open_pull(archive, folder, Manners(), lambda _: None) as opened:
        done = opened.run(query)
    check(done.n_objects, N_PULLED)
    return done.n_objects / (time.monotonic() - started_s)


def send(archive: Orthanc, folder: Path, repeats: int) -> dict[str, Any]:
    """Return reports/s: made and written, and sent by each way."""
    copies(photograph(), N_REPORTS, folder / "in")
    frames = Frames(DiskSource([str(folder / "in")]), unknown)
    spec, reports = read_manifest(reference_repository()), folder / "reports"
    reports.mkdir()

    def make(place: Path) -> float:
        started_s = time.monotonic()
        check(sum(1 for _ in write_reports(frames, rows.__getitem__, spec, place, ["sr"])), N_REPORTS)
        return N_REPORTS / (time.monotonic() - started_s)

    def by(sender: Sender) -> Row:
        return lambda place: sent(sender, archive, reports, place)

    rows = {each.image_id: row(each) for each in frames if isinstance(each, Frame)}
    make(reports)
    ways: dict[str, Row] = {
        "made and written": make,
        "C-STORE": by(DimseSender(archive.peer, CALLER)),
        "STOW-RS": by(WebSender(open_web(archive.dicomweb, None, TIMEOUT_S))),
        "dcmsend": lambda _: into_orthanc(archive, list(reports.iterdir())),
    }
    return compared("reports_per_s", ways, "C-STORE", folder, repeats)


def row(frame: Frame) -> ScoreRow:
    """Return a score."""
    answer = (0.7,)
    return ScoreRow(frame.image_id, "", "scored", "", answer, (answer,) * 4, None, frame.acquisition)


def sent(sender: Sender, archive: Orthanc, reports: Path, place: Path) -> float:
    """Return objects/s of `pacs send` to an Orthanc that has none of them."""
    archive.empty()
    started_s = time.monotonic()
    with open_sent_ledger(place / LEDGER) as ledger:
        outbox = Outbox(reports, ledger, sender)
        outbox.scan()
        outbox.send(time.monotonic())
        check(outbox.tally().sent, N_REPORTS)
    return N_REPORTS / (time.monotonic() - started_s)


def night(archive: Orthanc, folder: Path, repeats: int) -> dict[str, Any]:
    """Return the seconds of each command of a night, from its start to its end."""
    drawn = [photograph(seed, PHOTOGRAPH_PX) for seed in range(N_NIGHT)]
    paths = save(drawn, folder / "in")
    with embedded_server(reference_repository()) as server:
        nights = []
        for number in range(repeats + 1):
            archive.empty()  # else it would have the reports already
            archive.upload(paths)
            nights.append(one_night(archive, server.grpc_address, folder / str(number)))
    found = {step: [each[step] for each in nights[1:]] for step in nights[0]}
    return {"photographs": N_NIGHT, "seconds": found, "of": "score", "median_ratios": ratios(found, "score")}


def one_night(archive: Orthanc, server: str, folder: Path) -> dict[str, float]:
    """Return the seconds of each command, in a folder that is made."""
    objects, reports = folder / "objects", folder / "reports"
    reports.mkdir(parents=True)
    pacs = ["--peer", archive.peer]
    score = ["score", objects, "--url", server, "--quiet", "--output"]
    steps: dict[str, list[object]] = {
        "pacs pull": ["pacs", "pull", objects, "--from", ACQUIRED.date(), "--port", US.port, *pacs],
        "score": [*score, folder / "plain.csv"],
        "score --sr": [*score, folder / "scores.csv", "--sr", reports],
        "pacs send": ["pacs", "send", reports, *pacs],
    }
    program = Path(sys.executable).with_name("fundus-client")
    return {name: round(timed([program, *step]), 2) for name, step in steps.items()}


def compared(unit: str, rows: Mapping[str, Row], base: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Return the figures of each repeat, and the median ratio of each row to `base`; all are tried before."""
    found: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats + 1):
        for name, row in rows.items():
            with tempfile.TemporaryDirectory(dir=folder) as place:
                found[name].append(round(row(Path(place)), 1))
    kept = {name: values[1:] for name, values in found.items()}
    return {unit: kept, "of": base, "median_ratios": ratios(kept, base)}


def ratios(found: Mapping[str, Sequence[float]], base: str) -> dict[str, float]:
    """Return the median of the ratios of each row to `base`."""
    return {name: round(median_ratio(values, found[base]), 2) for name, values in found.items()}


def copies(dataset: Dataset, count: int, folder: Path) -> list[Path]:
    """Write an object several times, each with an instance UID of its own."""
    paths: list[Path] = []
    for _ in range(count):
        dataset.SOPInstanceUID = generate_uid()
        paths += save([dataset], folder)
    return paths


def dcmsend(peer: Peer, paths: Sequence[Path]) -> float:
    """Return objects/s over one association."""
    line = [program("dcmsend"), "--decompress-never", "-aec", peer.ae_title, peer.host, peer.port, *paths]
    return len(paths) / timed(line)


def timed(line: Sequence[object]) -> float:
    """Return the seconds that a command takes."""
    started_s = time.monotonic()
    subprocess.run([*map(str, line)], check=True, capture_output=True)
    return time.monotonic() - started_s


@contextmanager
def storescp(folder: Path) -> Iterator[Peer]:
    """Start dcmtk's receiver."""
    peer = Peer("STORESCP", "127.0.0.1", free_port())
    line = [program("storescp"), "--accept-all", "-od", str(folder), str(peer.port)]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            echo = [program("echoscu"), peer.host, str(peer.port)]
            while subprocess.run(echo, capture_output=True).returncode:
                time.sleep(0.01)
            yield peer
        finally:
            process.terminate()


def check(n_there: int, n_sent: int) -> None:
    """End everything where an object is missing: its figures would be wrong."""
    if n_there != n_sent:
        raise SystemExit(f"{n_there} of {n_sent} objects arrived")


if __name__ == "__main__":
    main()
