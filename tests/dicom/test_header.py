"""What a DICOM header says: the frames and their places in the archive, or why it is no photograph."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid as uids
from pydicom.dataset import Dataset
from tests.dicom.objects import JAPANESE, PERSON, coded, file_of, ophthalmic, phantom, photograph

from fundus_client.dicom.header import MAX_FRAMES, Header, read_header
from fundus_core.errors import ImageError
from fundus_core.pseudonyms import Pseudonyms

PSEUDONYMS = Pseudonyms(bytes(32))
NOTHING = {"AcquisitionDateTime": None}


def header(dataset: Dataset) -> Header:
    found = read_header(file_of(dataset), PSEUDONYMS.of_patient)
    assert found is not None
    return found


def test_a_photograph_is_one_frame_with_its_uids_and_device() -> None:
    dataset = photograph()
    found = header(dataset)
    assert (found.refusal, found.n_bytes) == ("", dataset.Rows * dataset.Columns * 3)
    (frame,) = found.frames
    assert frame.study_uid == dataset.StudyInstanceUID
    assert frame.series_uid == dataset.SeriesInstanceUID
    assert (frame.sop_uid, frame.frame) == (dataset.SOPInstanceUID, 1)
    assert (frame.laterality, frame.acquired) == ("R", "2026-11-24T08:30:00")
    assert (frame.manufacturer, frame.model, frame.patient) == ("Synthetic", "Phantom 1", "")


def test_each_frame_has_its_number() -> None:
    frames = header(ophthalmic(np.stack([phantom()] * 3))).frames
    assert [frame.frame for frame in frames] == [1, 2, 3]
    assert len({frame.sop_uid for frame in frames}) == 1


def test_of_a_person_only_the_keyed_pseudonym_is_kept() -> None:
    found = header(photograph(SpecificCharacterSet=["", "ISO 2022 IR 87"], **PERSON))
    assert found.frames[0].patient == PSEUDONYMS.of_patient("PLANTED-4711")
    assert not [value for value in PERSON.values() if value in repr(found)]


def test_a_japanese_name_does_not_disturb_what_follows() -> None:
    person = {"PatientName": JAPANESE, "PatientID": "4711"}
    frame = header(photograph(SpecificCharacterSet=["", "ISO 2022 IR 87"], **person)).frames[0]
    assert (frame.patient, frame.laterality) == (PSEUDONYMS.of_patient("4711"), "R")


@pytest.mark.parametrize(
    ("said", "laterality"),
    [
        ({"ImageLaterality": "L", "Laterality": "R"}, "L"),
        ({"ImageLaterality": None, "Laterality": "L"}, "L"),
        ({"ImageLaterality": "", "Laterality": "B"}, "B"),
        ({"ImageLaterality": "U", "Laterality": "R"}, ""),
        ({"ImageLaterality": None, "SeriesDescription": "OD right eye"}, ""),
    ],
)
def test_laterality_is_read_and_never_guessed(said: dict[str, object], laterality: str) -> None:
    assert header(photograph(**said)).frames[0].laterality == laterality


@pytest.mark.parametrize(
    ("said", "acquired"),
    [
        ({"AcquisitionDateTime": "20261124083000.125000+0900"}, "2026-11-24T08:30:00+09:00"),
        ({"AcquisitionDateTime": "202611240830"}, "2026-11-24T08:30:00"),
        (NOTHING | {"AcquisitionDate": "20261124", "AcquisitionTime": "083059.5"}, "2026-11-24T08:30:59"),
        (NOTHING | {"AcquisitionDate": "20261124"}, "2026-11-24"),
        (NOTHING | {"AcquisitionTime": "083000"}, ""),
        (NOTHING, ""),  # ContentDate, SeriesDate and StudyDate may be those of a later copy
        ({"AcquisitionDateTime": "20261324083000"}, ""),
        ({"AcquisitionDateTime": "2026"}, ""),
    ],
)
def test_the_time_is_that_of_the_acquisition_or_none(said: dict[str, object], acquired: str) -> None:
    assert header(photograph(**said)).frames[0].acquired == acquired


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"SOPClassUID": uids.OphthalmicTomographyImageStorage}, "Ophthalmic Tomography Image"),
        ({"SOPClassUID": uids.Comprehensive3DSRStorage}, "Comprehensive 3D SR"),
        (
            {"SOPClassUID": uids.WideFieldOphthalmicPhotographyStereographicProjectionImageStorage},
            "Wide Field Ophthalmic Photography",
        ),
        ({"SOPClassUID": "1.2.3.4"}, "1.2.3.4"),
        ({"SOPClassUID": uids.SecondaryCaptureImageStorage, "Modality": "OPT"}, "OCT"),
        ({"SOPClassUID": uids.SecondaryCaptureImageStorage, "Modality": "NOMEN"}, "another modality"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "", "FA"]}, "fluorescein angiography"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "ICG"]}, "indocyanine green angiography"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "", "REDFREE"]}, "red-free light"),
        ({"ImageType": ["ORIGINAL", "PRIMARY"], "ContrastBolusAgent": "Nomen"}, "contrast agent"),
        ({"ImageType": ["ORIGINAL", "PRIMARY"], "ContrastBolusAgentSequence": [Dataset()]}, "contrast agent"),
    ],
)
def test_another_kind_of_object_is_refused_in_a_sentence(said: dict[str, object], words: str) -> None:
    found = header(ophthalmic(np.stack([phantom()] * 2), **said))
    assert words in found.refusal
    assert found.refusal.endswith(".")
    assert "Nomen" not in found.refusal
    assert [frame.frame for frame in found.frames] == [1]


@pytest.mark.parametrize(
    "said",
    [
        {"SOPClassUID": uids.SecondaryCaptureImageStorage, "Modality": "XC"},
        {"SOPClassUID": uids.VLPhotographicImageStorage, "Modality": "XC"},
        {"ImageType": ["DERIVED", "SECONDARY"], "Modality": ""},
        {"ImageType": ["ORIGINAL", "PRIMARY", "", "COLOR"], "ContrastBolusAgent": "before the injection"},
    ],
)
def test_what_may_be_a_photograph_is_let_through(said: dict[str, object]) -> None:
    assert header(photograph(**said)).refusal == ""


def test_a_head_that_ends_too_early_is_not_enough_and_never_another_answer() -> None:
    whole = file_of(photograph(**PERSON))
    expected = read_header(whole, PSEUDONYMS.of_patient)
    answers = [read_header(whole[:n_bytes], PSEUDONYMS.of_patient) for n_bytes in range(0, 3000, 17)]
    assert {answer for answer in answers if answer} == {expected}
    assert answers[0] is None


@pytest.mark.parametrize("syntax", [uids.ImplicitVRLittleEndian, uids.ExplicitVRBigEndian])
def test_every_encoding_of_attributes_is_read(syntax: str) -> None:
    dataset = ophthalmic(phantom())
    assert header(coded(dataset, syntax)) == header(dataset)


def test_a_deflated_object_is_read_from_its_first_bytes() -> None:
    dataset = ophthalmic(phantom())
    head = file_of(coded(dataset, uids.DeflatedExplicitVRLittleEndian))[:3000]
    assert read_header(head, PSEUDONYMS.of_patient) == header(dataset)


def test_a_billion_frames_are_refused() -> None:
    with pytest.raises(ImageError, match="1,000,000,000 frames") as refused:
        header(photograph(NumberOfFrames=10**9))
    assert refused.value.reason == "too_many_pixels"
    assert len(header(photograph(NumberOfFrames=MAX_FRAMES)).frames) == MAX_FRAMES


def test_what_is_no_uid_is_not_handed_on() -> None:
    data = file_of(photograph()).replace(b"2.25.", b"Nomen")
    data = data.replace(b"1.2.826.0.1", b"Planted.Nom")
    frame = read_header(data, PSEUDONYMS.of_patient)
    assert frame is not None
    assert (frame.frames[0].study_uid, frame.frames[0].sop_uid) == ("", "")


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (Debian's dicom3tools) is not installed")
@pytest.mark.parametrize("name", ["photograph", "grey frames of 16 bit"])
def test_the_objects_of_these_tests_are_valid(name: str, tmp_path: Path) -> None:
    dataset = {
        "photograph": photograph(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=JAPANESE),
        "grey frames of 16 bit": ophthalmic(np.stack([phantom()[..., 1].astype(np.uint16) * 257] * 2)),
    }[name]
    (tmp_path / "object.dcm").write_bytes(file_of(dataset))
    done = subprocess.run(["dciodvfy", tmp_path / "object.dcm"], capture_output=True, text=True)
    assert "OphthalmicPhotography" in done.stderr
    assert "Error" not in done.stderr
