"""`pacs pull` from archives that are not as they should be."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import build_context, evt
from tests.pacs.conftest import photograph
from tests.pacs.fakes import Fake, one_series, serving
from tests.pacs.test_pull import DAY, named, names, run

from fundus_client.pacs.peer import Caller, Peer, association


def test_a_series_that_came_short_is_tried_again_then_has_a_reason(tmp_path: Path, us: Peer) -> None:
    fake = Fake(one_series(3), us)
    fake.withheld = {fake.objects[0].SOPInstanceUID}
    with serving(fake) as peer:
        done = run(tmp_path, us, *DAY, "--peer", peer)
        assert (done.exit_code, fake.n_moves) == (3, 2)
        assert f"failed {fake.objects[0].SeriesInstanceUID}: 2 of 3 objects came" in done.stderr
        assert done.stdout.endswith("failed 1 series\n")
        fake.withheld = set()
        assert run(tmp_path, us, *DAY, "--peer", peer).exit_code == 0
    assert names(tmp_path) == named(fake.objects)


def test_searches_are_narrow_and_ask_for_nothing_of_a_person(tmp_path: Path, us: Peer) -> None:
    fake = Fake(one_series(1), us)
    with serving(fake) as peer:
        assert run(tmp_path, us, *DAY, "--modality", "OP", "--modality", "XC", "--peer", peer).exit_code == 0
    *by_study, by_series = fake.searches
    assert [each.ModalitiesInStudy for each in by_study] == ["OP", "XC"]
    assert {each.StudyDate for each in by_study} == {"20261124"}
    assert by_series.StudyInstanceUID == fake.objects[0].StudyInstanceUID
    assert not any(keyword.startswith("Patient") for each in fake.searches for keyword in each.dir())


def test_an_archive_that_gives_no_counts_is_asked_for_each_object(tmp_path: Path, us: Peer) -> None:
    fake = Fake(one_series(3), us)
    fake.counts, fake.withheld = False, {fake.objects[0].SOPInstanceUID}
    with serving(fake) as peer:
        assert "2 of 3 objects came" in run(tmp_path, us, *DAY, "--peer", peer).stderr


@pytest.mark.parametrize(
    ("code", "exit_code", "sentence"),
    [(0xA801, 1, "does not know FUNDUS"), (0xA702, 3, "0 of 1 objects came; "), (0xC000, 3, "0xC000")],
)
def test_a_move_that_fails_has_a_reason(
    tmp_path: Path, us: Peer, code: int, exit_code: int, sentence: str
) -> None:
    fake = Fake(one_series(1), us)
    fake.answer = [code]
    with serving(fake) as peer:
        done = run(tmp_path, us, *DAY, "--peer", peer)
    assert done.exit_code == exit_code
    assert sentence in done.stderr


def test_a_dying_peer_is_never_success(tmp_path: Path, us: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fundus_client.pacs.pull._RETRIES_S", (0.1,))
    fake = Fake(one_series(1), us)

    def die(event: evt.Event) -> Iterator[object]:
        event.assoc.abort()
        yield None, None

    with serving(fake, die) as peer:
        done = run(tmp_path, us, *DAY, "--peer", peer)
    assert done.exit_code == 4
    assert "fell silent" in done.stderr
    assert not done.stdout


def test_what_others_send_meanwhile_counts_for_no_series(tmp_path: Path, us: Peer) -> None:
    fake, foreign = Fake(one_series(2), us), photograph()
    fake.withheld = {fake.objects[0].SOPInstanceUID}

    def move_and_more(event: evt.Event) -> Iterator[object]:
        with association(us, Caller("FAKE"), [build_context(foreign.SOPClassUID)]) as opened:
            opened.send_c_store(foreign)
        yield from fake.move(event)

    with serving(fake, move_and_more) as peer:
        assert "1 of 2 objects came" in run(tmp_path, us, *DAY, "--peer", peer).stderr
