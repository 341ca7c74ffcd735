"""DICOM objects among the inputs: an image for each frame, and a reason for what is no photograph."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs the extra `dicom`")

from click.testing import CliRunner
from pydicom import uid as uids
from tests.client.fakes import SPEC
from tests.core.test_rows import DARK
from tests.dicom.objects import PERSON, file_of, ophthalmic, phantom

from fundus_client.cli import main
from fundus_client.dicom.frames import Frames, unknown
from fundus_client.dicom.reporting import write_reports
from fundus_client.journal import open_journal
from fundus_client.pseudonymous import Pseudonymous
from fundus_client.sources import Ref, open_source
from fundus_core.acquisition import COLUMNS, Acquisition
from fundus_core.errors import ImageError
from fundus_core.images import DEFAULT_LIMITS, decode
from fundus_core.pseudonyms import Pseudonyms
from fundus_core.rows import ScoreFormat, ScoreRow

NAMES = Pseudonyms(bytes(range(32)))
SEVERAL = np.stack([phantom(seed) for seed in range(11)])


def write(path: Path, *objects: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(objects))


def frames(*inputs: Path | str, names: Pseudonyms | None = None) -> list[Ref]:
    return list(Frames(open_source(list(map(str, inputs)), None), names.of_patient if names else unknown))


def reason(ref: Ref) -> str:
    with pytest.raises(ImageError) as raised:
        ref.read(DEFAULT_LIMITS)
    return raised.value.reason


def scored(ref: Ref, code: str = "") -> ScoreRow:
    if code:
        return ScoreRow(ref.image_id, "aa", "failed", f"{code}: why.", None, None, None, ref.acquisition)
    return ScoreRow(ref.image_id, "aa", "scored", "", (0.5,), ((0.5,), (0.5,)), DARK, ref.acquisition)


def test_objects_are_found_by_their_content_whatever_their_names(tmp_path: Path) -> None:
    one = file_of(ophthalmic(phantom()))
    for name in ("a/IM0001", "a/b.dcm", "a/c.jpg", "a/d.DICOM", "DICOMDIR"):
        write(tmp_path / name, one)
    write(tmp_path / "notes.txt", b"no photograph")
    write(tmp_path / ".incoming" / "half", one)
    assert [ref.image_id for ref in frames(tmp_path)] == ["a/IM0001", "a/b.dcm", "a/c.jpg", "a/d.DICOM"]
    assert [ref.image_id for ref in frames(tmp_path / "*")] == [
        *("DICOMDIR", "a/IM0001", "a/b.dcm", "a/c.jpg", "a/d.DICOM", "notes.txt")
    ]


def test_each_frame_is_an_image_whose_id_sorts_by_its_number(tmp_path: Path) -> None:
    write(tmp_path / "eye", file_of(ophthalmic(SEVERAL)))
    refs = frames(tmp_path)
    assert [ref.image_id for ref in refs] == [f"eye/{number:02}" for number in range(1, 12)]
    for ref, expected in zip(refs, SEVERAL, strict=True):
        assert np.array_equal(decode(ref.read(DEFAULT_LIMITS)), expected)


def test_a_photograph_says_where_it_is_from_and_not_of_whom(tmp_path: Path) -> None:
    made = ophthalmic(phantom(), **PERSON)
    write(tmp_path / "eye", file_of(made))
    (ref,) = frames(tmp_path, names=NAMES)
    assert ref.acquisition == Acquisition(
        *(made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID, 1, "R"),
        *("2026-11-24T08:30:00", "Synthetic", "Phantom 1", NAMES.of_patient(PERSON["PatientID"])),
    )
    assert not [value for value in PERSON.values() if value in repr(ref.acquisition)]
    (nameless,) = frames(tmp_path)
    assert nameless.acquisition == replace(ref.acquisition, patient="")


def test_with_pseudonyms_neither_uids_nor_times_are_told(tmp_path: Path) -> None:
    made = ophthalmic(phantom())
    write(tmp_path / "eye", file_of(made))
    plain = Frames(open_source([str(tmp_path)], None), NAMES.of_patient)
    (ref,) = Pseudonymous(plain, NAMES)
    known = ref.acquisition
    assert known is not None and known.acquired == "" and known.laterality == "R"
    assert uids.UID(known.sop_uid).is_valid and known.sop_uid == NAMES.of_uid(made.SOPInstanceUID)
    assert len({known.study_uid, known.series_uid, known.sop_uid, made.SOPInstanceUID}) == 4


def test_what_is_no_photograph_is_an_image_with_a_reason(tmp_path: Path) -> None:
    tomogram = ophthalmic(phantom(), SOPClassUID=uids.OphthalmicTomographyImageStorage)
    write(tmp_path / "a", file_of(tomogram))
    whole = file_of(ophthalmic(phantom()))
    write(tmp_path / "b", whole[:200])
    write(tmp_path / "c", whole[:-5000])
    refs = frames(tmp_path)
    assert [(ref.image_id, reason(ref)) for ref in refs] == [
        *(("a", "not_a_photograph"), ("b", "corrupt"), ("c", "corrupt"))
    ]
    assert refs[0].acquisition and refs[0].acquisition.sop_uid == tomogram.SOPInstanceUID


def test_frames_and_refusals_survive_the_way_to_another_machine(tmp_path: Path) -> None:
    write(tmp_path / "a", file_of(ophthalmic(phantom(), SOPClassUID=uids.OphthalmicTomographyImageStorage)))
    write(tmp_path / "b", file_of(ophthalmic(phantom())))
    refused, photograph = (pickle.loads(pickle.dumps(ref)) for ref in frames(tmp_path))  # noqa: S301 (our own)
    assert reason(refused) == "not_a_photograph"
    assert np.array_equal(decode(photograph.read(DEFAULT_LIMITS)), phantom())


@pytest.mark.filterwarnings("ignore:The value for the data element:UserWarning:pydicom")
def test_a_header_longer_than_what_is_read_first_is_read_whole(tmp_path: Path) -> None:
    made = ophthalmic(phantom(), ImageComments="long " * 100_000)
    write(tmp_path / "eye", file_of(made))
    (ref,) = frames(tmp_path)
    assert ref.acquisition and ref.acquisition.sop_uid == made.SOPInstanceUID
    assert np.array_equal(decode(ref.read(DEFAULT_LIMITS)), phantom())


def test_a_journal_keeps_what_the_headers_say_also_of_what_has_no_row(tmp_path: Path) -> None:
    write(tmp_path / "in" / "eye", file_of(ophthalmic(SEVERAL[:2])))
    refs = frames(tmp_path / "in")
    with open_journal(tmp_path / "journal", fresh=False) as journal:
        journal.belongs_to(SPEC)
        assert not journal.has_acquisitions
        journal.register(refs)
        journal.record(refs[0].image_id, refs[0].stamp(), scored(refs[0]))
        journal.commit()
        assert journal.has_acquisitions
        assert journal.n_missing == 1
        first, second = journal.rows("vanished: gone.")
        assert first == journal.row(refs[0].image_id, "") and first.status == "scored"
        assert [first.acquisition, second.acquisition] == [ref.acquisition for ref in refs]
        journal.forget([refs[1].image_id])
        assert list(journal.rows("")) == [first]


def test_only_a_table_with_dicom_objects_has_their_columns() -> None:
    without = ScoreFormat(SPEC.labels, SPEC.thresholds, 2, "d")
    with_them = replace(without, with_acquisitions=True)
    assert [name for name in with_them.header if name not in without.header] == list(COLUMNS)
    known = Acquisition("1.2", "1.3", "1.4", 7, "L")
    row = ScoreRow("a", "aa", "scored", "", (0.5,), ((0.5,), (0.5,)), DARK, known)
    cells = dict(zip(with_them.header, with_them.cells(row), strict=True))
    assert (cells["sop_uid"], cells["frame"], cells["laterality"], cells["patient"]) == ("1.4", "7", "L", "")
    assert len(without.cells(row)) == len(without.header)
    assert with_them.cells(replace(row, acquisition=None))[-1 - len(COLUMNS) : -1] == ("",) * len(COLUMNS)


@pytest.mark.parametrize(
    ("codes", "n_reports"),
    [
        (("", ""), 1),
        (("", "corrupt"), 1),
        (("corrupt", "corrupt"), 0),
        (("", "server_unreachable"), 0),
        (("", "vanished"), 0),
    ],
)
def test_an_object_has_one_report_when_nothing_more_will_be_known(
    codes: Sequence[str], n_reports: int, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "eye", file_of(ophthalmic(SEVERAL[:2])))
    source = Frames(open_source([str(tmp_path / "in")], None), unknown)
    rows = {ref.image_id: scored(ref, code) for ref, code in zip(source, codes, strict=True)}
    (tmp_path / "out").mkdir()
    for _ in range(2):
        written = list(write_reports(source, rows.__getitem__, SPEC, tmp_path / "out", ["sr", "pdf"]))
        assert sorted(path for files in written for path in files) == sorted((tmp_path / "out").iterdir())
        assert len(written) == n_reports and all(len(files) == 2 for files in written)


def test_what_came_after_the_scoring_has_no_report_yet(tmp_path: Path) -> None:
    write(tmp_path / "in" / "eye", file_of(ophthalmic(phantom())))
    source = Frames(open_source([str(tmp_path / "in")], None), unknown)
    assert list(write_reports(source, lambda _: None, SPEC, tmp_path, ["sr"])) == []


def test_one_uid_in_two_studies_has_two_reports(tmp_path: Path) -> None:
    for study in ("1.1", "1.2"):
        made = ophthalmic(phantom(), StudyInstanceUID=study, SOPInstanceUID="1.3")
        write(tmp_path / "in" / study, file_of(made))
    source = Frames(open_source([str(tmp_path / "in")], None), unknown)
    rows = {ref.image_id: scored(ref) for ref in source}
    (tmp_path / "out").mkdir()
    list(write_reports(source, rows.__getitem__, SPEC, tmp_path / "out", ["sr"]))
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_report_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    write(tmp_path / "in" / "eye", file_of(ophthalmic(phantom())))
    source = Frames(open_source([str(tmp_path / "in")], None), unknown)
    (ref,) = source
    (tmp_path / "out").mkdir()
    ((path,),) = write_reports(source, lambda _: scored(ref), SPEC, tmp_path / "out", ["sr"])
    path.write_bytes(b"as it was sent")
    assert list(write_reports(source, lambda _: scored(ref), SPEC, tmp_path / "out", ["sr"])) == [[path]]
    assert path.read_bytes() == b"as it was sent"


def test_an_object_without_uids_has_a_row_and_no_report(tmp_path: Path) -> None:
    write(tmp_path / "in" / "eye", file_of(ophthalmic(phantom(), StudyInstanceUID="")))
    source = Frames(open_source([str(tmp_path / "in")], None), unknown)
    (ref,) = source
    assert decode(ref.read(DEFAULT_LIMITS)).shape == phantom().shape
    assert list(write_reports(source, lambda _: scored(ref), SPEC, tmp_path, ["sr"])) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pdf"], "--pdf needs --sr"),
        (["--sr", "{in}/reports"], "lies within the inputs"),
        (["{in}/**/*.dcm", "--sr", "{in}/reports"], "lies within the inputs"),
        (["--sr", "{out}", "--pseudonymise", "{key}"], "exclude each other"),
    ],
)
def test_reports_that_cannot_be(options: list[str], message: str, tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("in", "out", "key")}
    (places["in"] / "reports").mkdir(parents=True)
    places["out"].mkdir()
    places["key"].write_bytes(bytes(32))
    places["key"].chmod(0o600)
    given = [each.format(**places) for each in options]
    inputs = [] if given[0].startswith("/") else [str(places["in"])]
    write(places["in"] / "eye.dcm", file_of(ophthalmic(phantom())))
    done = CliRunner().invoke(main, ["score", *inputs, *given, "--output", str(tmp_path / "s.csv")])
    assert done.exit_code == 2
    assert message in done.output


def test_a_dry_run_counts_frames(tmp_path: Path) -> None:
    write(tmp_path / "in" / "eye", file_of(ophthalmic(SEVERAL)))
    line = ["score", str(tmp_path / "in"), "--output", str(tmp_path / "s.csv"), "--dry-run"]
    assert "would score 11 of 11 files" in CliRunner().invoke(main, line).output
