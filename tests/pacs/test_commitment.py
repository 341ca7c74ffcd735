"""Storage commitment with Orthanc on the other side, in both roles."""

import time
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt
from tests.pacs.conftest import OP_8_BIT, Orthanc, photograph, save
from tests.pacs.senders import US, listening, store, storescu

from fundus_client.pacs.commitment import Answers, Reference, request_commitment
from fundus_client.pacs.peer import Caller, Peer
from fundus_client.pacs.receive import Listening, receiving
from fundus_client.pacs.scp import serving


def references(objects: list[Dataset]) -> list[Reference]:
    return [Reference(each.SOPClassUID, each.SOPInstanceUID) for each in objects]


def test_an_archive_commits_what_it_has_and_says_what_it_has_not(
    tmp_path: Path, orthanc: Orthanc, us: Peer
) -> None:
    here, missing = [photograph(), photograph()], photograph()
    orthanc.upload(save(here, tmp_path / "sent"))
    with receiving(tmp_path / "spool", Listening(port=us.port), lambda _: None) as receiver:
        asked = references([*here, missing])
        outcome = request_commitment(orthanc.peer, Caller(), asked, receiver.answers, 10)
    assert outcome.committed == {each.SOPInstanceUID for each in here}
    assert list(outcome.failed) == [missing.SOPInstanceUID]


def test_we_commit_to_an_archive_what_lies_on_our_disk(tmp_path: Path, orthanc: Orthanc, us: Peer) -> None:
    here = photograph()
    path = save([here], tmp_path / "sent")[0]
    orthanc.upload([path])
    with listening(tmp_path / "spool", port=us.port, commit_to=(orthanc.peer,)) as peer:
        assert storescu(peer, path) == 0
        missing = {"SOPClassUID": OP_8_BIT, "SOPInstanceUID": generate_uid()}
        asked = [{"SOPClassUID": OP_8_BIT, "SOPInstanceUID": here.SOPInstanceUID}, missing]
        request = {"DicomInstances": asked, "Synchronous": False}
        answer = orthanc.ask("/modalities/fundus/storage-commitment", request)
        for _ in range(100):
            report = orthanc.ask(answer["Path"])
            if report["Status"] != "Pending":
                break
            time.sleep(0.1)
    assert [each["SOPInstanceUID"] for each in report["Success"]] == [here.SOPInstanceUID]
    assert [each["SOPInstanceUID"] for each in report["Failures"]] == [missing["SOPInstanceUID"]]


def test_a_requestor_of_commitment_without_an_address_is_answered_in_its_association(tmp_path: Path) -> None:
    here, elsewhere = photograph(), photograph()
    with listening(tmp_path) as peer:
        assert store(peer, here) == [0]
        asked = [*references([here, elsewhere]), Reference("1.2.840.10008.5.1.4.1.1.7", here.SOPInstanceUID)]
        outcome = request_commitment(peer, US, asked[:2], Answers(), 10)
        of_another_class = request_commitment(peer, US, asked[2:], Answers(), 10)
    assert outcome.committed == {here.SOPInstanceUID}
    assert outcome.failed == {elsewhere.SOPInstanceUID: 0x0112}
    assert of_another_class.failed == {here.SOPInstanceUID: 0x0119}


def test_we_commit_to_what_was_taken_on_to_another_folder(tmp_path: Path) -> None:
    here, days = photograph(), tmp_path / "days"
    days.mkdir()
    with receiving(tmp_path / "a", Listening(port=0), lambda _: None, elsewhere=lambda: [days]) as receiver:
        peer = Peer("FUNDUS", "127.0.0.1", receiver.port)
        assert store(peer, here) == [0]
        (tmp_path / "a" / here.StudyInstanceUID).rename(days / "study")
        outcome = request_commitment(peer, US, references([here]), Answers(), 10)
    assert outcome.committed == {here.SOPInstanceUID}


def test_an_answer_in_an_association_of_its_own_comes_from_a_provider(tmp_path: Path) -> None:
    here, answers, roles = photograph(), Answers(), list[bool]()

    def note(event: evt.Event) -> None:
        roles.extend(bool(role.scp_role) for role in event.assoc.requestor.role_selection.values())

    handlers = [*answers.handlers, (evt.EVT_REQUESTED, note)]
    with serving(Listening("ASKER", port=0), answers.contexts, handlers) as port:
        asker = Peer("ASKER", "127.0.0.1", port)
        with listening(tmp_path, commit_to=(asker,)) as peer:
            assert store(peer, here) == [0]
            outcome = request_commitment(peer, Caller("ASKER"), references([here]), answers, 10)
    assert outcome.committed == {here.SOPInstanceUID}
    assert roles == [True]
