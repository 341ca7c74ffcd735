"""The C-STORE SCP, with real senders: what it acknowledged is on the disk, and nobody can make it do else."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, config, dcmread, dcmwrite
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit
from pynetdicom import build_context
from tests.conftest import files_up_to
from tests.pacs.conftest import OP_8_BIT, photograph, save
from tests.pacs.senders import US, listening, on_disk, store, storescu

from fundus_client.listener import free_port
from fundus_client.pacs.peer import Caller, Peer, association, code_of
from fundus_client.pacs.spool import SpoolError, Stored, open_spool
from fundus_core.errors import FundusError, PacsError, PacsUnreachableError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # the command sets this itself


def with_uid(keyword: str, uid: str) -> Dataset:
    """A photograph with a UID that pydicom would not let anybody write."""
    ds = photograph()
    ds[keyword] = DataElement(keyword, "UI", uid, validation_mode=config.IGNORE)
    return ds


def encoded(ds: Dataset, announced_uid: str) -> bytes:
    """An object as a file, with the UID that its sender announced."""
    ds.preamble = bytes(128)
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = OP_8_BIT, announced_uid
    with io.BytesIO() as buffer:
        dcmwrite(buffer, ds)
        return buffer.getvalue()


def test_objects_of_dcmtk_lie_on_the_disk_as_they_were_sent(tmp_path: Path) -> None:
    objects, stored = [photograph() for _ in range(3)], list[Stored]()
    with listening(tmp_path / "spool", stored.append) as peer:
        assert storescu(peer, *save(objects, tmp_path / "sent")) == 0
    assert on_disk(tmp_path / "spool") == {f"{ds.StudyInstanceUID}/{ds.SOPInstanceUID}.dcm" for ds in objects}
    for ds, each in zip(objects, stored, strict=True):
        assert (each.series_uid, each.sop_uid, each.is_new) == (ds.SeriesInstanceUID, ds.SOPInstanceUID, True)
        assert dcmread(each.path) == ds


def test_a_compressed_object_is_not_decoded_on_its_way(tmp_path: Path) -> None:
    ds = photograph()
    ds.PixelData = encapsulate([b"\xff\xd8 not even a JPEG \xff\xd9 "])
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    with listening(tmp_path) as peer:
        assert store(peer, ds) == [0]
    kept = dcmread(tmp_path / ds.StudyInstanceUID / f"{ds.SOPInstanceUID}.dcm")
    assert (kept.file_meta.TransferSyntaxUID, kept.PixelData) == (JPEGBaseline8Bit, ds.PixelData)


@pytest.mark.parametrize("uid", ["../../outside", "/etc/passwd", "1..2", ".", "", "1.2/3", "1" * 65])
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_uid_that_is_none_never_becomes_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: str, keyword: str
) -> None:
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    with open_spool(tmp_path / "spool", 0) as spool, pytest.raises(SpoolError, match="UID") as refused:
        spool.put(encoded(with_uid(keyword, uid), "1.2.3"))
    assert refused.value.status == 0xC000
    assert on_disk(tmp_path) == set()


def test_a_path_in_place_of_a_uid_is_refused_and_the_association_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    with listening(tmp_path / "spool") as peer:
        assert store(peer, with_uid("StudyInstanceUID", "../../outside"), photograph()) == [0xC000, 0]
    assert len(on_disk(tmp_path)) == 1


def test_an_object_that_is_not_what_was_announced_is_refused(tmp_path: Path) -> None:
    with open_spool(tmp_path, 0) as spool, pytest.raises(SpoolError) as refused:
        spool.put(encoded(photograph(), "1.2.3"))
    assert refused.value.status == 0xA900
    assert on_disk(tmp_path) == set()


@pytest.mark.parametrize("data", [b"", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\xff" * 999])
def test_bytes_that_are_no_object_are_refused(tmp_path: Path, data: bytes) -> None:
    with open_spool(tmp_path, 0) as spool, pytest.raises(SpoolError) as refused:
        spool.put(data)
    assert refused.value.status == 0xC000


def test_an_object_that_comes_again_stays_one_and_the_newest_content_counts(tmp_path: Path) -> None:
    ds, stored = photograph(), list[Stored]()
    changed = dcmread(save([ds], tmp_path / "sent")[0])
    changed.InstanceNumber = 2
    with listening(tmp_path / "spool", stored.append) as peer:
        assert store(peer, ds, ds, changed) == [0, 0, 0]
    assert [each.is_new for each in stored] == [True, False, True]
    assert len(on_disk(tmp_path / "spool")) == 1
    assert dcmread(stored[0].path).InstanceNumber == 2


def test_a_full_disk_is_never_acknowledged_and_leaves_nothing_half(tmp_path: Path) -> None:
    with listening(tmp_path, min_free_bytes=0) as peer:
        with files_up_to(1000):
            assert store(peer, photograph(size_px=64)) == [0xA700]
        assert on_disk(tmp_path) == set()
        assert store(peer, photograph(size_px=64)) == [0]


def test_the_disk_keeps_its_least_free_bytes(tmp_path: Path) -> None:
    with listening(tmp_path, min_free_bytes=2**60) as peer:
        assert store(peer, photograph()) == [0xA700]
    assert on_disk(tmp_path) == set()


def test_what_cannot_be_remembered_is_not_acknowledged(tmp_path: Path) -> None:
    def forgetful(stored: Stored) -> None:
        raise FundusError("The journal is full.")

    with listening(tmp_path, forgetful) as peer:
        assert store(peer, photograph()) == [0xA700]


def test_only_those_who_know_us_and_whom_we_know_may_send(tmp_path: Path) -> None:
    with listening(tmp_path, callers=("CAMERA",)) as peer:
        assert store(peer, photograph(), caller=Caller("CAMERA")) == [0]
        with pytest.raises(PacsError, match="refuses SENDER"):
            store(peer, photograph())
        with pytest.raises(PacsError, match="Called AE title not recognised"):
            store(replace(peer, ae_title="OTHER"), photograph(), caller=Caller("CAMERA"))
    assert len(on_disk(tmp_path)) == 1


def test_one_association_too_many_is_told_to_come_later(tmp_path: Path) -> None:
    contexts = [build_context(OP_8_BIT)]
    with (
        listening(tmp_path, max_associations=1) as peer,
        association(peer, US, contexts),
        pytest.raises(PacsUnreachableError, match="too busy"),
    ):
        store(peer, photograph())


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x01\x00",
        b"\x01\x00\x00\x00\x10\x00half a PDU",
        b"\x01\x00\xff\xff\xff\xff 4 GiB, by its header",
    ],
    ids=["nothing", "half a header", "half a PDU", "4 GiB"],
)
def test_who_falls_silent_or_lies_is_dropped_and_holds_up_nobody(tmp_path: Path, said: bytes) -> None:
    with (
        listening(tmp_path, timeout_s=0.5) as peer,
        socket.create_connection((peer.host, peer.port), 5) as caller,
    ):
        caller.sendall(said)
        assert store(peer, photograph()) == [0]
        assert caller.recv(1000)[:1] in (b"", b"\x07")  # closed, or an A-ABORT


def test_a_silent_association_is_dropped(tmp_path: Path) -> None:
    with (
        listening(tmp_path, timeout_s=0.3) as peer,
        association(peer, US, [build_context(OP_8_BIT)]) as opened,
    ):
        for _ in range(100):
            if not opened.is_established:
                break
            time.sleep(0.05)
        assert opened.is_aborted


def test_an_object_without_an_end_is_cut_off(tmp_path: Path) -> None:
    with (
        listening(tmp_path, max_object_bytes=2**20, max_pdu_bytes=2**14) as peer,
        pytest.raises(PacsUnreachableError, match="fell silent"),
    ):
        store(peer, photograph(size_px=1000))
    assert on_disk(tmp_path) == set()


def test_a_study_that_is_taken_away_meanwhile_costs_no_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = photograph(), photograph()
    second.StudyInstanceUID = first.StudyInstanceUID
    replace_, taken = Path.replace, tmp_path / "taken"

    def taking(path: Path, target: Path) -> Path:
        if not taken.exists():
            target.parent.rename(taken)
        return replace_(path, target)

    with listening(tmp_path / "spool") as peer:
        assert store(peer, first) == [0]
        monkeypatch.setattr(Path, "replace", taking)
        assert store(peer, second) == [0]
    assert on_disk(taken) == {f"{first.SOPInstanceUID}.dcm"}
    assert on_disk(tmp_path / "spool") == {f"{second.StudyInstanceUID}/{second.SOPInstanceUID}.dcm"}


def test_the_end_waits_for_nobody(tmp_path: Path) -> None:
    with socket.socket() as caller:
        with listening(tmp_path) as peer:
            caller.connect((peer.host, peer.port))
            caller.sendall(b"\x01\x00\x00\x00\x10\x00half a PDU")
            assert store(peer, photograph()) == [0]
            began = time.monotonic()
        assert time.monotonic() - began < 5


def test_what_a_killed_one_left_half_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".incoming").mkdir()
    (tmp_path / ".incoming" / "half").write_bytes(bytes(128) + b"DICM")
    with open_spool(tmp_path, 0):
        assert on_disk(tmp_path) == set()


def test_two_commands_never_store_into_one_folder(tmp_path: Path) -> None:
    with (
        open_spool(tmp_path, 0),
        pytest.raises(UsageError, match="Another command stores into"),
        open_spool(tmp_path, 0),
    ):
        pass


LISTENER = """
import sys
from pathlib import Path
from fundus_client.pacs.receive import Listening, receiving
with receiving(Path(sys.argv[1]), Listening(port=int(sys.argv[2])), lambda stored: None):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_nothing_of_a_person_is_said_whatever_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    peer = Peer("FUNDUS", "127.0.0.1", free_port())
    objects = [with_uid(keyword, "MARKER") for keyword in ("StudyInstanceUID", "FrameOfReferenceUID")]
    for ds in objects:
        ds.SpecificCharacterSet, ds.PatientName, ds.PatientID = "MARKER", "Marker^\\x1b$B^X", "MARKER"
        for keyword, vr in (("PatientBirthDate", "DA"), ("PatientWeight", "DS"), ("InstanceNumber", "IS")):
            ds[keyword] = DataElement(keyword, "LO", "MARKER")
            ds[keyword].VR = vr
    logged = f"import logging; logging.basicConfig(level=logging.DEBUG){LISTENER}"
    line = [sys.executable, "-W", "always", "-c", logged, str(tmp_path / "spool"), str(peer.port)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "ready\n"
        assert store(peer, *objects) == [0xC000, 0]
        said = process.communicate()[1]
    assert "Not taken from 'SENDER': An object has a UID that is none." in said
    assert "MARKER" not in said.upper()


def test_kill_9_under_load_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    spool, peer = tmp_path / "spool", Peer("FUNDUS", "127.0.0.1", free_port())
    line = [sys.executable, "-c", LISTENER, str(spool), str(peer.port)]
    acknowledged = dict[str, Dataset]()
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        with pytest.raises(PacsUnreachableError), association(peer, US, [build_context(OP_8_BIT)]) as opened:
            for number in range(1000):
                ds = photograph(size_px=200)
                if number == 20:
                    os.kill(process.pid, signal.SIGKILL)
                if code_of(opened.send_c_store(ds), peer) == 0:
                    acknowledged[f"{ds.StudyInstanceUID}/{ds.SOPInstanceUID}.dcm"] = ds
    assert len(acknowledged) >= 20
    with open_spool(spool, 0):  # as the next start does
        found = on_disk(spool)
    assert acknowledged.keys() <= found
    assert all(dcmread(spool / name) == ds for name, ds in acknowledged.items())
    assert len(found) <= len(acknowledged) + 1  # one may be whole, and its answer lost
