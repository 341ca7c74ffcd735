"""Objects to archives: real ones, one that dies in the middle, and ones that refuse or are busy."""

import itertools
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from tests.pacs.conftest import Orthanc, photograph, program, save
from tests.pacs.sending import fake_archive, lines, run
from tests.planted import JPEG

from fundus_client.listener import free_port
from fundus_client.pacs import outbox as outbox_module
from fundus_client.pacs.outbox import LEDGER, Outbox, open_sent_ledger
from fundus_client.pacs.peer import Caller, Peer
from fundus_client.pacs.send import Answer, DimseSender
from fundus_core.errors import EXIT_RETRY_LATER, EXIT_SOME_FAILED


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of at most 20 ms."""
    monkeypatch.setattr(outbox_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(outbox_module, "LONGEST_PAUSE_S", 0.02)


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """A folder of 5 objects and 2 files that are none."""
    folder = tmp_path / "reports"
    save([photograph() for _ in range(5)], folder / "night")
    (folder / "scores.csv").write_text("image_id\n")
    (folder / ".hidden.dcm").write_bytes(bytes(128) + b"DICM")
    return folder


def test_every_object_is_in_the_archive_and_the_same_command_sends_nothing_again(
    orthanc: Orthanc, reports: Path
) -> None:
    first = run(reports, "--peer", orthanc.peer)
    assert (first.exit_code, lines(first)) == (0, [f"sent 5 of 5 objects to {orthanc.peer}"])
    assert len(orthanc.ask("/instances")) == 5
    orthanc.empty()
    again = run(reports, "--peer", orthanc.peer)
    assert lines(again) == [f"sent 5 of 5 objects to {orthanc.peer}, 5 of them before"]
    assert orthanc.ask("/instances") == []


def test_compressed_objects_arrive_at_dcmtk_as_they_are(tmp_path: Path) -> None:
    objects = [photograph(), photograph()]
    objects[1].file_meta.TransferSyntaxUID, objects[1].PixelData = JPEGBaseline8Bit, encapsulate([JPEG])
    save(objects, tmp_path / "reports")
    (there := tmp_path / "there").mkdir()
    peer = Peer("STORESCP", "127.0.0.1", free_port())
    line = [program("storescp"), "+xa", "-uf", "-od", there, str(peer.port)]
    with subprocess.Popen(line) as process:
        result = run(tmp_path / "reports", "--peer", peer, "--retry-for", "5s")
        process.kill()
    assert lines(result) == [f"sent 2 of 2 objects to {peer}"]
    arrived = {each.SOPInstanceUID: each for each in map(dcmread, there.iterdir())}
    for each in objects:
        assert arrived[each.SOPInstanceUID].file_meta.TransferSyntaxUID == each.file_meta.TransferSyntaxUID
        assert arrived[each.SOPInstanceUID].PixelData == each.PixelData


def test_what_is_added_is_sent_and_each_archive_has_its_own_memory(orthanc: Orthanc, reports: Path) -> None:
    with fake_archive(lambda event: 0x0000) as other:
        run(reports, "--peer", other)
    save([photograph()], reports)
    assert lines(run(reports, "--peer", orthanc.peer)) == [f"sent 6 of 6 objects to {orthanc.peer}"]


def test_an_archive_that_is_killed_in_the_middle_gets_the_rest_when_it_is_back(
    own_orthanc: Callable[..., Orthanc], tmp_path: Path, quick: None
) -> None:
    folder = tmp_path / "many"
    paths = save([photograph(size_px=128) for _ in range(40)], folder)
    running = own_orthanc()
    with open_sent_ledger(folder / LEDGER) as ledger:

        def kill_at_20(each: object, answer: Answer) -> None:
            if len(ledger.known(str(running.peer))) == 20:
                running.kill()

        outbox = Outbox(folder, ledger, DimseSender(running.peer, Caller()), kill_at_20)
        outbox.scan()
        outbox.send(0.0)
        n_sent = outbox.tally().sent
        assert outbox.trouble is not None
        assert 20 <= n_sent < 40
    assert run(folder, "--peer", running.peer).exit_code == 4
    running = own_orthanc()
    done = run(folder, "--peer", running.peer, "--retry-for", "5s")
    assert lines(done) == [f"sent 40 of 40 objects to {running.peer}, {n_sent} of them before"]
    here = {
        running.ask(f"/instances/{each}")["MainDicomTags"]["SOPInstanceUID"]
        for each in running.ask("/instances")
    }
    assert here == {path.stem for path in paths}


def test_a_busy_archive_is_asked_again_and_one_that_refuses_is_not(reports: Path, quick: None) -> None:
    asked: list[str] = []

    def store(event: evt.Event) -> int:
        asked.append(str(event.request.AffectedSOPInstanceUID))
        if asked[0] == asked[-1]:
            return 0xA900
        return 0xA700 if len(asked) < 4 else 0x0000

    with fake_archive(store) as peer:
        result = run(reports, "--peer", peer, "--retry-for", "1m")
    assert result.exit_code == EXIT_SOME_FAILED
    assert lines(result) == [
        f"sent 4 of 5 objects to {peer}",
        "failed 1: 0xA900 Data Set Does Not Match SOP Class",
    ]
    assert asked.count(asked[0]) == 1
    assert len(asked) == 7


def test_what_was_refused_is_tried_again_by_the_next_run(reports: Path) -> None:
    answers = iter([0xC000] * 5 + [0x0000] * 5)
    with fake_archive(lambda event: next(answers)) as peer:
        assert run(reports, "--peer", peer).exit_code == EXIT_SOME_FAILED
        assert lines(run(reports, "--peer", peer)) == [f"sent 5 of 5 objects to {peer}"]


def test_an_archive_that_stays_busy_is_left_alone_and_the_exit_code_says_later(reports: Path) -> None:
    asked: list[int] = []

    def store(event: evt.Event) -> int:
        asked.append(1)
        return 0xA701

    with fake_archive(store) as peer:
        result = run(reports, "--peer", peer)
    assert result.exit_code == EXIT_RETRY_LATER
    assert len(asked) == 3
    assert lines(result)[1:] == ["waiting 3: 0xA701 Refused: Out of Resources", "waiting 2: not sent yet"]


def test_a_warning_counts_as_sent_with_a_note(reports: Path) -> None:
    with fake_archive(lambda event: 0xB000) as peer:
        result = run(reports, "--peer", peer)
    assert result.exit_code == 0
    assert lines(result)[1:] == ["noted 5: 0xB000 Coercion of Data Elements"]


def test_an_archive_that_falls_silent_over_an_object_never_counts_as_having_it(
    reports: Path, quick: None
) -> None:
    odd: list[str] = []

    def store(event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        odd[:] = odd or [uid]
        if uid == odd[0]:
            event.assoc.abort()
        return 0x0000

    with fake_archive(store) as peer:
        result = run(reports, "--peer", peer)
    assert result.exit_code == EXIT_RETRY_LATER
    assert lines(result) == [f"sent 4 of 5 objects to {peer}", "waiting 1: the archive fell silent"]


def test_a_kind_that_the_archive_does_not_take_is_refused_by_name(reports: Path) -> None:
    other = photograph()
    other.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    other.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    save([other], reports)
    with fake_archive(lambda event: 0x0000) as peer:
        result = run(reports, "--peer", peer)
    assert result.exit_code == EXIT_SOME_FAILED
    assert lines(result)[0].startswith("sent 5 of 6")
    assert "does not accept Ophthalmic Photography 8 Bit Image Storage in JPEG Baseline" in lines(result)[1]


def test_an_archive_that_takes_no_kind_refuses_each_object(reports: Path) -> None:
    with fake_archive(lambda event: 0x0000, classes=()) as peer:
        result = run(reports, "--peer", peer)
    assert result.exit_code == EXIT_SOME_FAILED
    assert lines(result)[1].startswith("failed 5: the archive does not accept")


def test_objects_that_an_archive_always_puts_off_hold_up_no_others(reports: Path, quick: None) -> None:
    odd = set[str]()

    def store(event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if len(odd) < 3:
            odd.add(uid)
        return 0xA700 if uid in odd else 0x0000

    with fake_archive(store) as peer:
        result = run(reports, "--peer", peer, "--retry-for", "1s")
    assert lines(result) == [f"sent 2 of 5 objects to {peer}", "waiting 3: 0xA700 Refused: Out of Resources"]


def test_more_kinds_than_one_association_has_contexts_for_are_sent(tmp_path: Path) -> None:
    classes = [str(each.abstract_syntax) for each in AllStoragePresentationContexts[:4]]
    kinds = list(itertools.product(classes, ALL_TRANSFER_SYNTAXES))
    objects = [photograph() for _ in kinds]
    for each, (each.SOPClassUID, each.file_meta.TransferSyntaxUID) in zip(objects, kinds, strict=True):
        del each.PixelData
    save(objects, tmp_path)
    with fake_archive(lambda event: 0x0000, classes, ALL_TRANSFER_SYNTAXES) as peer:
        result = run(tmp_path, "--peer", peer)
    assert len(kinds) > 128
    assert lines(result) == [f"sent {len(kinds)} of {len(kinds)} objects to {peer}"]


def test_nobody_at_the_address_is_exit_code_4_with_a_next_step(reports: Path) -> None:
    result = run(reports, "--peer", f"GONE@127.0.0.1:{free_port()}")
    assert result.exit_code == 4
    assert lines(result)[1] == "waiting 5: not sent yet"
    assert "Check host, port" in result.stderr


def test_damaged_objects_are_counted_and_no_name_of_a_file_is_remembered(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    folder = tmp_path / "reports"
    (whole,) = save([photograph()], folder)
    whole.rename(folder / "YAMADA TARO.dcm")
    (folder / "cut.dcm").write_bytes(bytes(128) + b"DICM" + bytes(9))
    result = run(folder, "--peer", orthanc.peer)
    assert result.exit_code == EXIT_SOME_FAILED
    assert lines(result)[1] == "failed 1: no readable file meta information"
    assert b"YAMADA" not in (folder / LEDGER).read_bytes()
    assert "YAMADA" not in result.output


def test_commitment_is_asked_for_and_remembered(orthanc: Orthanc, us: Peer, reports: Path) -> None:
    result = run(reports, "--peer", orthanc.peer, "--commit", "--port", us.port)
    assert (result.exit_code, lines(result)[1]) == (0, "committed 5 of 5 objects")
    with sqlite3.connect(reports / LEDGER) as database:
        assert database.execute("SELECT count(*) FROM objects WHERE committed_at IS NOT NULL").fetchone() == (
            5,
        )


def test_what_the_archive_lost_before_it_was_committed_is_sent_again(
    orthanc: Orthanc, us: Peer, reports: Path
) -> None:
    run(reports, "--peer", orthanc.peer)
    lost = orthanc.ask("/instances")[0]
    orthanc.ask(f"/instances/{lost}", method="DELETE")
    result = run(reports, "--peer", orthanc.peer, "--commit", "--port", us.port)
    assert (result.exit_code, lines(result)[1]) == (EXIT_RETRY_LATER, "committed 4 of 4 objects")
    assert run(reports, "--peer", orthanc.peer, "--commit", "--port", us.port).exit_code == 0
    assert len(orthanc.ask("/instances")) == 5
