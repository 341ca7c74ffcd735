"""Headers of photographs as archives hold them, and rows about them."""

import subprocess
from dataclasses import replace
from datetime import datetime
from io import BytesIO
from pathlib import Path
from shutil import which
from warnings import catch_warnings, simplefilter

import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, OphthalmicPhotography8BitImageStorage
from tests.conftest import bare_spec

from fundus_core.acquisition import Acquisition
from fundus_core.calibrator import Calibrator
from fundus_core.ensemble import CutOff
from fundus_core.quality import Quality
from fundus_core.rows import ScoreRow

STUDY, SERIES, OBJECT = "1.2.826.0.1.1", "1.2.826.0.1.2", "1.2.826.0.1.3"
WHEN = datetime(2026, 11, 25, 20, 15, 30)
SPEC = replace(
    bare_spec(2),
    thresholds=(0.42,),
    cut_offs=(CutOff("youden", (0.42,)),),
    calibrators=(Calibrator("temperature", 0.9),),
)
SEVERAL = replace(
    bare_spec(2),
    labels=("glaucoma", "diabetic_retinopathy", "近視"),
    thresholds=(0.42, 0.5, 0.6),
)
GOOD = Quality(0.9, 1500, 1, 0.5, 0.95, 3)
BLURRED = replace(GOOD, sharpness=0.1)


def header(syntax: str = ExplicitVRLittleEndian, **values: object) -> Dataset:
    """Write a header with `values` as a camera would, and read it as the client does."""
    written = Dataset()
    written.SOPClassUID, written.SOPInstanceUID = OphthalmicPhotography8BitImageStorage, OBJECT
    written.StudyInstanceUID, written.SeriesInstanceUID = STUDY, SERIES
    file = BytesIO()
    with catch_warnings():
        simplefilter("ignore")  # of values that are wrong on purpose
        for keyword, value in values.items():
            setattr(written, keyword, value)
        dcmwrite(file, written, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    file.seek(0)
    return dcmread(file, force=True)


def scored(
    *probability: float, frame: int = 1, quality: Quality | None = GOOD, laterality: str = ""
) -> ScoreRow:
    folds = tuple(tuple(each - step for each in probability) for step in (0.01, -0.01))
    taken = Acquisition(STUDY, SERIES, OBJECT, frame, laterality)  # type: ignore[arg-type]
    return ScoreRow(f"eye.dcm/{frame}", "0" * 64, "scored", "", probability, folds, quality, taken)


def failed(reason: str, frame: int) -> ScoreRow:
    taken = Acquisition(STUDY, SERIES, OBJECT, frame)
    return ScoreRow(f"eye.dcm/{frame}", "0" * 64, "failed", reason, None, None, None, taken)


def program(name: str, package: str, *arguments: object) -> str:
    """Return what a program of Debian's says."""
    path = which(name, path="/usr/bin:/usr/local/bin")
    if path is None:
        pytest.skip(f"{name} is not there; it is in Debian's {package}")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, timeout=60)
    return (done.stdout + done.stderr).decode(errors="replace")


def errors_of(path: Path) -> list[str]:
    """Return what dciodvfy finds wrong with an object."""
    said = program("dciodvfy", "dicom3tools", path)
    assert "Comprehensive3DSR" in said or "SCImage" in said or "EncapsulatedPDF" in said, said
    return [line for line in said.splitlines() if line.startswith("Error")]
