"""Structured reports: valid, readable, always the same, and in the patient's own words."""

import io
import logging
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from highdicom.sr import MeasurementReport, srread
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import ImplicitVRLittleEndian
from tests.conftest import files_up_to
from tests.dicom.objects import PERSON
from tests.dicom.results import (
    BLURRED,
    OBJECT,
    SERIES,
    SEVERAL,
    SPEC,
    STUDY,
    WHEN,
    errors_of,
    failed,
    header,
    program,
    scored,
)

from fundus_client.dicom.codes import PROBABILITY
from fundus_client.dicom.evidence import object_uid, write_object
from fundus_client.dicom.report import structured_report
from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import ImageError
from fundus_core.rows import ScoreFormat, ScoreRow

ONE = [scored(0.95659345, laterality="R")]
KANJI = "Yamada^Tarou=山田^太郎=やまだ^たろう"
BAD = {
    "PatientName": "Name without a caret that is much longer than the sixty-four characters of a PN",
    "PatientID": "4711" * 20,
    "PatientBirthDate": "1950-01-31",
    "PatientSex": "female",
    "StudyDate": "20261331",
    "StudyTime": "25:00",
    "InstanceNumber": "",
    "SpecificCharacterSet": "UTF-8",
}
SOURCES: dict[str, tuple[Dataset, list[ScoreRow], EnsembleSpec]] = {
    "minimal": (header(), ONE, SPEC),
    "implicit": (header(ImplicitVRLittleEndian, PatientName="Doe^Jane", PatientSex="F"), ONE, SPEC),
    "japanese": (header(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=KANJI), ONE, SPEC),
    "utf_8": (header(SpecificCharacterSet="ISO_IR 192", PatientName=KANJI), ONE, SPEC),
    "latin_1": (header(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg"), ONE, SPEC),
    "frames": (header(), [scored(0.1, frame=1), failed("corrupt: cut off", 2), scored(0.9, frame=3)], SPEC),
    "labels": (header(), [scored(0.9, 0.4, 0.6, quality=BLURRED)], SEVERAL),
    "long": (header(), ONE, replace(SPEC, name="a\\b" * 50, labels=("\\lesion" * 20,))),
}


def written(folder: Path, source: Dataset, rows: list[ScoreRow], spec: EnsembleSpec = SPEC) -> Path:
    path = folder / "report.dcm"
    write_object(structured_report(source, rows, spec, WHEN), path)
    return path


def encoded(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def items(dataset: Dataset, meaning: str) -> list[Dataset]:
    """The content items of this concept, wherever in the tree they are."""
    below = [found for item in dataset.get("ContentSequence", ()) for found in items(item, meaning)]
    name = dataset.get("ConceptNameCodeSequence")
    return ([dataset] if name and name[0].CodeMeaning == meaning else []) + below


def values(dataset: Dataset, meaning: str) -> list[float]:
    return [item.MeasuredValueSequence[0].FloatingPointValue for item in items(dataset, meaning)]


@pytest.mark.parametrize("name", SOURCES)
def test_a_report_is_valid(name: str, tmp_path: Path) -> None:
    assert errors_of(written(tmp_path, *SOURCES[name])) == []


@pytest.mark.parametrize("name", SOURCES)
def test_dcmtk_reads_a_report(name: str, tmp_path: Path) -> None:
    said = program("dsrdump", "dcmtk", written(tmp_path, *SOURCES[name]))
    assert said.startswith("Comprehensive 3D SR Document")
    assert re.search(r'NUM:\(,,"Probability"\)="0\.\d+" \(1,UCUM', said)
    assert not re.search("^[EF]: ", said, re.MULTILINE)


def test_highdicom_reads_a_report(tmp_path: Path) -> None:
    content = srread(written(tmp_path, *SOURCES["frames"])).content
    assert isinstance(content, MeasurementReport)
    first, second, third = content.get_image_measurement_groups()
    assert [group.get_measurements(PROBABILITY)[0].value for group in (first, third)] == [0.1, 0.9]
    assert not second.get_measurements()
    assert [group.source_images[0].referenced_frame_numbers for group in (first, second)] == [[1], [2]]


@pytest.mark.parametrize(
    ("name", "said"), [("japanese", KANJI), ("utf_8", KANJI), ("latin_1", "Müller^Jörg")]
)
def test_a_name_survives(name: str, said: str, tmp_path: Path) -> None:
    source, rows, spec = SOURCES[name]
    path = written(tmp_path, source, rows, spec)
    assert str(dcmread(path).PatientName) == said
    raw = source.get_item("PatientName").value
    assert isinstance(raw, bytes) and raw in path.read_bytes()


@pytest.mark.parametrize(("name", "said"), [("utf_8", KANJI), ("latin_1", "Müller^Jörg")])
def test_dcmtk_reads_a_name(name: str, said: str, tmp_path: Path) -> None:
    assert said in program("dcmdump", "dcmtk", "+U8", "+P", "PatientName", written(tmp_path, *SOURCES[name]))


def test_bytes_that_break_their_character_set_stay_as_they_are(tmp_path: Path) -> None:
    source = header(SpecificCharacterSet="ISO_IR 192", PatientID="PLACE__1")
    element = source.get_item("PatientID")
    source["PatientID"] = element._replace(value=b"M\xfcller-1")
    assert b"M\xfcller-1" in written(tmp_path, source, ONE).read_bytes()


def test_wrong_values_of_a_header_stop_no_report(tmp_path: Path) -> None:
    path = written(tmp_path, header(**BAD), ONE)
    report = dcmread(path)
    assert (report.PatientName, report.PatientID) == (BAD["PatientName"], BAD["PatientID"])
    emptied = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime")
    assert [str(report[keyword].value or "") for keyword in emptied] == [""] * 4
    assert report.InstanceNumber == 1
    kept = re.compile(r"\(0x0008,0x0005\)|\(0x0010,0x00[12]0\)|Dicom dataset contains invalid data values")
    assert [error for error in errors_of(path) if not kept.search(error)] == []


def test_nobody_is_named_beside_the_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    source = header(**BAD)
    recwarn.clear()
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        written(tmp_path, source, ONE)
    assert [*recwarn, *caplog.records] == []


def test_a_report_holds_of_a_person_what_archives_file_by(tmp_path: Path) -> None:
    path = written(tmp_path, header(**PERSON), ONE)
    filed = {"PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName"}
    filed.add("StudyDescription")
    held = {keyword for keyword, value in PERSON.items() if value.encode() in path.read_bytes()}
    assert held == filed


def test_the_same_answer_gives_the_same_bytes() -> None:
    first, again = (encoded(structured_report(header(), ONE, SPEC, WHEN)) for _ in range(2))
    later = structured_report(header(), ONE, SPEC, WHEN + timedelta(days=1))
    assert first == again
    assert later.SOPInstanceUID == structured_report(header(), ONE, SPEC, WHEN).SOPInstanceUID
    assert encoded(later) != first


def test_a_report_is_in_the_study_and_in_a_series_of_its_bundle() -> None:
    here = structured_report(header(), ONE, SPEC, WHEN)
    beside = structured_report(header(SOPInstanceUID="1.2.826.0.1.4"), ONE, SPEC, WHEN)
    newer = structured_report(header(), ONE, replace(SPEC, version="2"), WHEN)
    assert here.StudyInstanceUID == beside.StudyInstanceUID == newer.StudyInstanceUID == STUDY
    assert here.SeriesInstanceUID == beside.SeriesInstanceUID not in (newer.SeriesInstanceUID, SERIES)
    assert len({each.SOPInstanceUID for each in (here, beside, newer)}) == 3


def test_each_kind_has_uids_of_its_own() -> None:
    uids = {object_uid(STUDY, OBJECT, SPEC.digest, kind) for kind in ("sr", "sc", "pdf")}
    assert len(uids) == 3 and all(re.fullmatch(r"2\.25\.[1-9]\d{30,38}", uid) for uid in uids)


def test_a_report_refers_to_its_photograph() -> None:
    report = structured_report(header(), ONE, SPEC, WHEN)
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (STUDY, SERIES)
    (image,) = items(report, "Source of Measurement")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == OBJECT
    assert "ReferencedFrameNumber" not in image.ReferencedSOPSequence[0]


@pytest.mark.parametrize(("laterality", "said"), [("R", ["Right"]), ("L", ["Left"]), ("", [])])
def test_the_eye_is_never_guessed(laterality: str, said: list[str]) -> None:
    report = structured_report(header(), [scored(0.5, laterality=laterality)], SPEC, WHEN)
    assert [item.ConceptCodeSequence[0].CodeMeaning for item in items(report, "Laterality")] == said


def test_the_numbers_are_those_of_the_table() -> None:
    row = scored(0.123456789)
    table = ScoreFormat(SPEC.labels, SPEC.thresholds, 2, SPEC.digest, SPEC.calibrators)
    cells = dict(zip(table.header, table.cells(row), strict=True))
    report = structured_report(header(), [row], SPEC, WHEN)
    assert values(report, "Probability") == [float(cells["probability"])]
    assert values(report, "Calibrated probability") == [float(cells["calibrated"])]
    assert values(report, "Highest minus lowest probability of the folds") == [float(cells["spread"])]
    assert values(report, "Threshold Value") == [0.42]


@pytest.mark.parametrize(("probability", "code"), [(0.42, "at_or_above"), (0.4199, "below")])
def test_the_decision_is_that_of_the_threshold(probability: float, code: str) -> None:
    report = structured_report(header(), [scored(probability)], SPEC, WHEN)
    (decision,) = items(report, "Glaucoma")
    assert decision.ConceptCodeSequence[0].CodeValue == code
    assert decision.ConceptNameCodeSequence[0].CodingSchemeDesignator == "SCT"


def test_an_ungradable_photograph_says_why() -> None:
    report = structured_report(header(), [scored(0.5, quality=BLURRED)], SPEC, WHEN)
    assert items(report, "Image Quality")[0].ConceptCodeSequence[0].CodeValue == "ungradable"
    assert [item.TextValue for item in items(report, "Comment")] == ["blurred 0.10"]


def test_a_frame_without_a_score_has_its_reason_and_leaves_the_report_partial() -> None:
    report = structured_report(*SOURCES["frames"], WHEN)
    assert [item.ConceptCodeSequence[0].CodeValue for item in items(report, "Glaucoma")] == [
        "below",
        "no_score",
        "at_or_above",
    ]
    assert [item.TextValue for item in items(report, "Comment")] == ["corrupt: cut off"]
    assert (report.CompletionFlag, report.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    assert structured_report(header(), ONE, SPEC, WHEN).CompletionFlag == "COMPLETE"


def test_other_labels_get_codes_of_our_own() -> None:
    report = structured_report(*SOURCES["labels"], WHEN)
    names = {item.ConceptNameCodeSequence[0].CodeMeaning for item in items_of_type(report, "CODE")}
    assert {"Glaucoma", "diabetic_retinopathy", "&#36817;&#35222;"} <= names
    schemes = {item.CodingSchemeDesignator for item in report.CodingSchemeIdentificationSequence}
    assert schemes == {"99FUNDUS"}


def items_of_type(dataset: Dataset, value_type: str) -> list[Dataset]:
    below = [
        found for item in dataset.get("ContentSequence", ()) for found in items_of_type(item, value_type)
    ]
    return ([dataset] if dataset.get("ValueType") == value_type else []) + below


def test_what_made_the_answer_is_said() -> None:
    report = structured_report(header(), ONE, SPEC, WHEN)
    said = [item.TextValue for item in items(report, "Algorithm Parameters")]
    assert f"bundle digest: {SPEC.digest}" in said and "threshold by: youden" in said
    assert report.DeviceSerialNumber == SPEC.digest


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_an_object_without_uids_gets_no_report(keyword: str) -> None:
    with pytest.raises(ImageError, match=f"no valid {keyword}"):
        structured_report(header(**{keyword: ""}), ONE, SPEC, WHEN)


def test_uids_that_are_no_quite_valid_ones_are_referred_to() -> None:
    report = structured_report(header(SOPInstanceUID="1.2.03"), ONE, SPEC, WHEN)
    (image,) = items(report, "Source of Measurement")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.03"


def test_an_object_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with files_up_to(1000), pytest.raises(OSError, match="too large"):
        written(tmp_path, header(), ONE)
    assert list(tmp_path.iterdir()) == []
