"""Pictures and pages for people: valid, and about the right photograph."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import OphthalmicPhotography8BitImageStorage
from tests.dicom.results import (
    BLURRED,
    OBJECT,
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

from fundus_client.dicom.evidence import object_uid, write_object
from fundus_client.dicom.pdf import WARNING, encapsulated_pdf
from fundus_client.dicom.picture import secondary_capture
from fundus_core.quality import Pixels

PATIENT = {"PatientName": "Planted^Nomen", "PatientID": "PLANTED-4711", "PatientBirthDate": "19431231"}
ROWS = [
    scored(0.95659345, laterality="L"),
    failed("corrupt: cut <off>", 2),
    scored(0.1, frame=3, quality=BLURRED),
]


@pytest.fixture(scope="module")
def picture() -> Pixels:
    """An odd number of bytes, which DICOM does not allow."""
    return np.random.default_rng(0).integers(0, 256, (33, 51, 3), np.uint8)


def test_a_picture_is_valid_and_keeps_its_pixels(picture: Pixels, tmp_path: Path) -> None:
    source = header(**PATIENT, ImageLaterality="R", LossyImageCompression="01", BurnedInAnnotation="YES")
    write_object(
        secondary_capture(source, picture, SPEC, WHEN, "What the score depends on"), tmp_path / "sc.dcm"
    )
    assert errors_of(tmp_path / "sc.dcm") == []
    read = dcmread(tmp_path / "sc.dcm")
    assert np.array_equal(read.pixel_array, picture)
    assert (read.StudyInstanceUID, read.PatientID) == (STUDY, "PLANTED-4711")
    assert (read.ImageLaterality, read.LossyImageCompression, read.BurnedInAnnotation) == ("R", "01", "YES")


def test_a_picture_says_nothing_that_its_photograph_does_not(picture: Pixels, tmp_path: Path) -> None:
    write_object(secondary_capture(header(), picture, SPEC, WHEN, "About"), tmp_path / "sc.dcm")
    assert errors_of(tmp_path / "sc.dcm") == []
    read = dcmread(tmp_path / "sc.dcm")
    assert read.Laterality == ""
    assert not {"ImageLaterality", "LossyImageCompression", "BurnedInAnnotation"} & set(read.dir())


def test_each_frame_has_a_picture_of_its_own(picture: Pixels) -> None:
    captures = [secondary_capture(header(), picture, SPEC, WHEN, "About", frame) for frame in (None, 1, 2)]
    assert len({capture.SOPInstanceUID for capture in captures}) == 3
    assert len({capture.SeriesInstanceUID for capture in captures}) == 1
    (source,) = captures[2].SourceImageSequence
    assert (source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID, source.ReferencedFrameNumber) == (
        OphthalmicPhotography8BitImageStorage,
        OBJECT,
        2,
    )


@pytest.mark.parametrize("spec", [SPEC, SEVERAL], ids=["one label", "several"])
def test_a_page_is_valid(spec: object, tmp_path: Path) -> None:
    rows = ROWS if spec is SPEC else [scored(0.9, 0.4, 0.6)]
    document = encapsulated_pdf(header(**PATIENT), rows, spec, WHEN)  # type: ignore[arg-type]
    write_object(document, tmp_path / "page.dcm")
    assert errors_of(tmp_path / "page.dcm") == []
    read = dcmread(tmp_path / "page.dcm")
    assert read.SOPInstanceUID == object_uid(STUDY, OBJECT, spec.digest, "pdf")  # type: ignore[attr-defined]
    assert read.SourceInstanceSequence[0].ReferencedSOPInstanceUID == OBJECT


def test_a_page_can_be_read_and_names_nobody(tmp_path: Path) -> None:
    document = encapsulated_pdf(header(**PATIENT), ROWS, SPEC, WHEN)
    (tmp_path / "page.pdf").write_bytes(document.EncapsulatedDocument[: document.EncapsulatedDocumentLength])
    said = program("pdftotext", "poppler-utils", "-layout", tmp_path / "page.pdf", "-")
    assert WARNING in said and SPEC.digest in said and OBJECT in said
    assert [line.split() for line in said.splitlines() if line.lstrip()[:1] in "123" and line.strip()] == [
        ["1", "left", "glaucoma", "0.956593", "0.420000", "at", "or", "above", "0.020000", "0.968823"],
        ["2", "unknown", "no", "score"],
        ["3", "unknown", "glaucoma", "0.100000", "0.420000", "below", "0.020000", "0.080073"],
    ]
    assert "Frame 2 has no score: corrupt: cut <off>" in said and "Frame 3 is ungradable: blurred" in said
    assert not [value for value in ("Planted", "Nomen", "4711", "1943") if value in said]


def test_a_page_of_many_frames_has_every_one(tmp_path: Path) -> None:
    document = encapsulated_pdf(header(), [scored(0.5, frame=frame) for frame in range(1, 121)], SPEC, WHEN)
    (tmp_path / "page.pdf").write_bytes(document.EncapsulatedDocument)
    said = program("pdftotext", "poppler-utils", "-layout", tmp_path / "page.pdf", "-")
    assert said.count("at or above") == 120 and said.count("\f") > 2


def test_the_same_answer_gives_the_same_page_and_picture(picture: Pixels) -> None:
    pages = [encapsulated_pdf(header(), ROWS, SPEC, WHEN).EncapsulatedDocument for _ in range(2)]
    assert pages[0] == pages[1]
    uids = {secondary_capture(header(), picture, SPEC, WHEN, "About").SOPInstanceUID for _ in range(2)}
    assert len(uids) == 1


@pytest.mark.parametrize(("library", "module"), [("highdicom", "evidence"), ("reportlab", "pdf")])
def test_a_missing_library_is_a_sentence(library: str, module: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; import fundus_client.dicom.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"This needs {library}. Install it with: pip install 'fundus-triton[dicom]'" in done.stderr
