"""The conformance statement says what the program does."""

from pathlib import Path

import pytest
from highdicom.sr import CodedConcept

from fundus_client.dicom import codes
from fundus_client.dicom.evidence import SERIES
from fundus_client.dicom.kinds import PHOTOGRAPHS

STATEMENT = (Path(__file__).resolve().parents[2] / "docs" / "dicom-conformance.md").read_text()
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]] for line in STATEMENT.splitlines() if line[:1] == "|"
]
CONCEPTS = [concept for concept in vars(codes).values() if isinstance(concept, CodedConcept)]


@pytest.mark.parametrize("concept", CONCEPTS, ids=[concept.meaning for concept in CONCEPTS])
def test_every_code_is_listed(concept: CodedConcept) -> None:
    assert [concept.value, concept.scheme_designator, concept.meaning] in [row[:3] for row in ROWS]


def test_every_eye_and_disease_is_listed() -> None:
    eyes = codes.LATERALITY.values()
    listed = [", ".join(eye.value for eye in eyes), "SCT", ", ".join(eye.meaning for eye in eyes)]
    glaucoma = codes.disease("glaucoma")
    assert listed in [row[:3] for row in ROWS]
    assert [glaucoma.value, "SCT", "Glaucoma"] in [row[:3] for row in ROWS]


def test_every_class_that_is_read_is_listed() -> None:
    first = STATEMENT.split("## Objects that are read")[1].split("## Objects that are written")[0]
    assert {row[1] for row in ROWS if len(row) == 2 and row[1] in first and row[1][:2] == "1."} == PHOTOGRAPHS


def test_every_series_that_is_written_is_listed() -> None:
    listed = [row[1:4] for row in ROWS if len(row) == 5]
    for series in SERIES.values():
        assert [series.sop_class, series.modality, str(series.number)] in listed
