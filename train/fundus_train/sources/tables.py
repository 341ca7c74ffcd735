"""Data sets that come with a labels table of one line per image."""

import os
from collections.abc import Sequence
from pathlib import Path

from fundus_core.errors import LabelsError
from fundus_core.reading import read_labels
from fundus_core.sheet import Sheet, read_sheet
from fundus_core.tables import LabelTable
from fundus_train.sources.photograph import Photograph

# What this project calls a column: what it may be called, first choice first. Those with capitals are from
# the published description of Labels.csv.
HYGD_COLUMNS = {
    "image_id": ("image_id", "Image Name", "Image"),
    "glaucoma": ("glaucoma", "Label"),
    "patient_id": ("group", "patient_id", "Patient", "Patient ID"),
}
HYGD_VALUES = {"GON+": 1, "GON-": 0, "1": 1, "0": 0}


def read_csv(path: Path, labels: Sequence[str]) -> list[Photograph]:
    """Read an ordinary labels table; of `labels`, the columns that it has. `group` goes before `patient_id`.

    Raises:
        LabelsError: none of `labels` is a column, a value is not 0 or 1, an image_id leaves the folder.
    """
    table = path / "labels.csv" if path.is_dir() else path
    sheet = read_sheet(table, LabelsError)
    there = [label for label in labels if label in sheet.columns]
    if not there:
        sheet.index(labels[0])  # raises, and names the nearest column
    truth = read_labels(table, there)
    patients = sheet.texts("group") if "group" in sheet.columns else truth.patient_id
    unknown = ("",) * len(truth.image_id)
    columns = (truth.image_id, patients or unknown, truth.eye or unknown, truth.source or unknown)
    return [
        Photograph(_inside(sheet, image_id), _known(truth, row), patient, eye, source=source)
        for row, (image_id, patient, eye, source) in enumerate(zip(*columns, strict=True))
    ]


def read_hygd(folder: Path, labels: Sequence[str] = ()) -> list[Photograph]:
    """Read `images/` and `labels.csv` (or `Images/` and `Labels.csv` with GON+ and GON-).

    `group`, where it is there, joins patients who share a copy. Copies themselves are found by content.

    Raises:
        LabelsError: no labels table, or one of other columns.
    """
    tables = sorted(path for path in folder.glob("*.csv") if path.name.casefold() == "labels.csv")
    if not tables:
        raise LabelsError(f"{folder} has no labels.csv. Name the folder that holds it and the images.")
    sheet = read_sheet(tables[0], LabelsError)
    names, cells, patients = (
        sheet.texts(next((name for name in names if name in sheet.columns), column))
        for column, names in HYGD_COLUMNS.items()
    )
    images = {path.name: path for path in sorted(folder.glob("[iI]mages/*"))}
    found = []
    for line, name, cell, patient in zip(sheet.lines, names, cells, patients, strict=True):
        if cell not in HYGD_VALUES:
            sheet.fail(f"line {line} has the label {cell!r}. Known: {', '.join(HYGD_VALUES)}.")
        path = images.get(Path(name).name, folder / "images" / Path(name).name)
        found.append(Photograph(path, {"glaucoma": HYGD_VALUES[cell]}, patient))
    return found


def _known(truth: LabelTable, row: int) -> dict[str, int]:
    values = zip(truth.labels, truth.values[row].tolist(), strict=True)
    return {label: value for label, value in values if value >= 0}


def _inside(sheet: Sheet, image_id: str) -> Path:
    """Return the path of an image, which must be below the table's folder to keep its name when merged."""
    folder = Path(os.path.abspath(sheet.path.parent))
    path = Path(os.path.normpath(folder / image_id))
    if not path.is_relative_to(folder):
        sheet.fail(f"image_id {image_id!r} is outside the table's folder. Move the table above all images.")
    return path
