"""`pacs pull` from a real Orthanc."""

import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner, Result
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from tests.conftest import COMMANDS
from tests.pacs.conftest import Orthanc, photograph, save

from fundus_client.cli import main
from fundus_client.pacs.peer import Peer
from fundus_client.pacs.pull import Hours, Manners
from fundus_core.errors import UsageError

DAY = ("--from", "2026-11-24")


def run(folder: Path, us: Peer, *arguments: object) -> Result:
    """Run the command as a user does."""
    line = ["pacs", "pull", folder, "--port", us.port, *arguments]
    return CliRunner().invoke(main, [*map(str, line)], catch_exceptions=False)


def names(folder: Path) -> set[str]:
    """STUDY/OBJECT of every object."""
    return {f"{path.parent.name}/{path.stem}" for path in folder.glob("*/*.dcm")}


def named(objects: list[Dataset]) -> set[str]:
    """STUDY/OBJECT of these objects."""
    return {f"{each.StudyInstanceUID}/{each.SOPInstanceUID}" for each in objects}


def studies(n_studies: int, size_px: int = 16) -> list[Dataset]:
    """Two series of two objects in each study."""
    series = [
        (study, generate_uid())
        for study in map(str, (generate_uid() for _ in range(n_studies)))
        for _ in "12"
    ]
    return [photograph(*uids, size_px=size_px) for uids in series for _ in "12"]


def test_a_day_comes_whole_and_once_and_what_has_grown_comes_again(
    tmp_path: Path, orthanc: Orthanc, us: Peer
) -> None:
    wanted, folder = studies(3), tmp_path / "night"
    others = [photograph(day="20261123"), photograph(day="20261125"), photograph(modality="OPT")]
    of_two_kinds = photograph(wanted[0].StudyInstanceUID, modality="SR")
    orthanc.upload(save([*wanted, *others, of_two_kinds], tmp_path / "sent"))
    first = run(folder, us, *DAY, "--peer", orthanc.peer)
    assert (first.exit_code, first.stdout) == (
        0,
        "pulled 12 objects of 6 series of 3 studies; failed 0 series\n",
    )
    assert names(folder) == named(wanted)
    assert all(
        dcmread(folder / f"{each.StudyInstanceUID}/{each.SOPInstanceUID}.dcm") == each for each in wanted
    )
    more = photograph(wanted[0].StudyInstanceUID, wanted[0].SeriesInstanceUID)
    orthanc.upload(save([more], tmp_path / "sent"))
    again = run(folder, us, *DAY, "--peer", orthanc.peer)
    assert again.stdout == "pulled 3 objects of 1 series of 1 studies; 5 series were here; failed 0 series\n"
    assert names(folder) == named([*wanted, more])


def test_days_and_modalities_are_those_asked_for(tmp_path: Path, orthanc: Orthanc, us: Peer) -> None:
    inside = [
        photograph(day="20261123", modality="XC"),
        photograph(day="20261124"),
        photograph(day="20261125"),
    ]
    outside = [photograph(day="20261122"), photograph(day="20261126"), photograph(modality="OPT")]
    orthanc.upload(save([*inside, *outside], tmp_path / "sent"))
    kinds = ("--modality", "OP", "--modality", "XC")
    done = run(
        tmp_path / "a", us, "--from", "2026-11-23", "--to", "2026-11-25", *kinds, "--peer", orthanc.peer
    )
    assert done.exit_code == 0, done.output
    assert names(tmp_path / "a") == named(inside)


def test_nobody_is_named_anywhere_but_in_the_objects(tmp_path: Path, orthanc: Orthanc, us: Peer) -> None:
    ds, folder = photograph(), tmp_path / "night"
    ds.PatientName, ds.PatientID, ds.AccessionNumber, ds.StudyID = (
        "Markername^X",
        "MARKERID",
        "MARKERAN",
        "MARKERSI",
    )
    orthanc.upload(save([ds], tmp_path / "sent"))
    done = run(folder, us, *DAY, "--peer", orthanc.peer)
    written = b"".join(
        path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".dcm"
    )
    assert done.exit_code == 0
    assert (
        "MARKER"
        not in (done.output + " ".join(map(str, folder.rglob("*"))) + written.decode("latin-1")).upper()
    )


def test_dicomweb_is_the_other_way(tmp_path: Path, orthanc: Orthanc, us: Peer) -> None:
    wanted, others = studies(2), [photograph(day="20261123"), photograph(modality="OPT")]
    orthanc.upload(save([*wanted, *others], tmp_path / "sent"))
    for came in (
        "8 objects of 4 series of 2 studies",
        "0 objects of 0 series of 0 studies; 4 series were here",
    ):
        done = run(tmp_path / "night", us, *DAY, "--web", orthanc.dicomweb)
        assert (done.exit_code, done.stdout) == (0, f"pulled {came}; failed 0 series\n")
    assert names(tmp_path / "night") == named(wanted)


@pytest.mark.parametrize("way", ["--peer", "--web"])
def test_deidentified_copies_are_all_that_is_kept(
    tmp_path: Path, orthanc: Orthanc, us: Peer, way: str
) -> None:
    ds, report, folder, key = photograph(), photograph(), tmp_path / "study", tmp_path / "key"
    ds.PatientName, ds.PatientID, ds.BurnedInAnnotation = "Marker^X", "MARKER", "NO"
    report.BurnedInAnnotation = "YES"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    orthanc.upload(save([ds, report], tmp_path / "sent"))
    archive = orthanc.peer if way == "--peer" else orthanc.dicomweb
    for counts in (
        "1 objects of 1 series of 1 studies",
        "0 objects of 0 series of 0 studies; 1 series were here",
    ):
        done = run(folder, us, *DAY, way, archive, "--deidentify", key)
        assert (done.exit_code, done.stdout) == (3, f"pulled {counts}; failed 1 series\n")
        assert "burned" in done.stderr
    (copy,) = folder.glob("*/*.dcm")
    assert dcmread(copy).PixelData == ds.PixelData
    kept = b" ".join(
        [
            *(bytes(path) for path in folder.rglob("*")),
            *(p.read_bytes() for p in folder.rglob("*") if p.is_file()),
        ]
    )
    for secret in ("Marker", "MARKER", ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID):
        assert secret.encode() not in kept


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        ([*DAY], 2, "Name the archive"),
        ([*DAY, "--peer", "A@b:1", "--web", "https://x"], 2, "Name the archive"),
        ([*DAY, "--peer", "pacs:104"], 2, "Write AET@host:port"),
        ([*DAY, "--peer", "A@pacs:99999"], 2, "Write AET@host:port"),
        ([*DAY, "--peer", "back\\slash@pacs:104"], 2, "is no AE title"),
        ([*DAY, "--peer", "A@b:1", "--aet", "seventeen letters"], 2, "is no AE title"),
        (["--from", "24.11.2026", "--peer", "A@b:1"], 2, "is no date"),
        ([*DAY, "--to", "2026-11-23", "--peer", "A@b:1"], 2, "is after"),
        ([*DAY, "--modality", "op", "--peer", "A@b:1"], 2, "is no modality"),
        ([*DAY, "--hours", "20", "--peer", "A@b:1"], 2, "Write it as 20-06"),
        ([*DAY, "--peer", "A@127.0.0.1:1"], 4, "Nobody answers as A@127.0.0.1:1"),
        ([*DAY, "--peer", "A@nowhere.invalid:104"], 4, "Nobody knows the host"),
    ],
)
def test_a_mistake_is_a_sentence_and_an_exit_code(
    tmp_path: Path, us: Peer, arguments: list[str], exit_code: int, sentence: str
) -> None:
    done = run(tmp_path, us, *arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (exit_code, 1)
    assert sentence in done.stderr


def test_an_archive_that_does_not_know_us_says_so(tmp_path: Path, orthanc: Orthanc, us: Peer) -> None:
    done = run(tmp_path, us, *DAY, "--peer", orthanc.peer, "--aet", "STRANGER")
    assert done.exit_code == 1
    assert (
        "refuses STRANGER (Calling AE title not recognised). Have its administrator add STRANGER"
        in done.stderr
    )


def test_a_disk_that_is_almost_full_is_left_alone(tmp_path: Path, orthanc: Orthanc, us: Peer) -> None:
    orthanc.upload(save([photograph()], tmp_path / "sent"))
    done = run(tmp_path / "night", us, *DAY, "--peer", orthanc.peer, "--min-free", 10**9)
    assert done.exit_code == 1
    assert "Free some, then run the command again" in done.stderr
    assert names(tmp_path / "night") == set()


def test_an_archive_that_dies_in_the_middle_is_waited_for(
    tmp_path: Path, own_orthanc: Callable[[], Orthanc], us: Peer
) -> None:
    first, wanted, folder = own_orthanc(), studies(10), tmp_path / "night"
    first.upload(save(wanted, tmp_path / "sent"))

    def restart() -> None:
        while len(names(folder)) < 6:
            time.sleep(0.01)
        first.kill()
        time.sleep(0.3)
        own_orthanc()

    thread = Thread(target=restart)
    thread.start()
    done = run(folder, us, *DAY, "--peer", first.peer)
    thread.join()
    assert done.exit_code == 0, done.output
    assert names(folder) == named(wanted)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_pull_that_is_ended_goes_on_where_it_was(
    tmp_path: Path, orthanc: Orthanc, us: Peer, number: int, exit_code: int
) -> None:
    wanted, folder = studies(5), tmp_path / "night"
    orthanc.upload(save(wanted, tmp_path / "sent"))
    options = ("--peer", orthanc.peer, "--port", us.port, "--rate", 20)
    line = [COMMANDS / "fundus-client", "pacs", "pull", folder, *DAY, *options]
    with subprocess.Popen([*map(str, line)]) as process:
        while len(names(folder)) < 6:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(5) == exit_code
    n_before = len(names(folder))
    done = run(folder, us, *DAY, "--peer", orthanc.peer)
    assert done.exit_code == 0
    assert names(folder) == named(wanted)
    n_known = int(done.stdout.split("studies; ")[1].split(" ")[0])
    assert n_known >= n_before // 2 - 1 > 0


@pytest.mark.parametrize(
    ("window", "now", "wait_s"),
    [
        ("20-06", "19:30", 1800),
        ("20-06", "20:00", 0),
        ("20-06", "05:59", 0),
        ("20-06", "06:00", 14 * 3600),
        ("8-17", "17:00", 15 * 3600),
        ("8-17", "16:59", 0),
        ("0-24", "12:00", 0),
    ],
)
def test_the_window_of_hours_opens_when_it_says(window: str, now: str, wait_s: float) -> None:
    assert Hours.parse(window).wait_s(datetime.fromisoformat(f"2026-11-24 {now}")) == wait_s


@pytest.mark.parametrize("window", ["", "20", "20-20", "6-06", "25-3", "20-25", "8-17-20", "a-b"])
def test_a_window_that_is_none_is_refused(window: str) -> None:
    with pytest.raises(UsageError, match="no window of hours"):
        Hours.parse(window)


def test_a_pull_waits_for_its_hours_and_keeps_its_rate(tmp_path: Path) -> None:
    clock, slept = [datetime(2026, 11, 24, 19)], list[float]()

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 1))
        if seconds >= 3600:
            clock[0] = datetime(2026, 11, 24, 20)

    manners = Manners(10, Hours(20, 6), 0, sleep, lambda: clock[0])
    manners.before(tmp_path)
    manners.after(50, time.monotonic())
    manners.before(tmp_path)
    assert slept == [0.0, 3600.0, 5.0]
