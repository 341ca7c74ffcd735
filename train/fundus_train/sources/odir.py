"""ODIR-5K: one line per patient, a photograph of each eye, diagnostic keywords for each eye.

The columns N to O are of the patient: a healthy left eye beside a glaucomatous right one has G = 1. So each
eye's labels come from its own keywords, by the rules of the data set's annotation: "suspected" counts as
present, a keyword that names no other class is "other", dust and blur are no diagnosis.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fundus_core.errors import LabelsError, MissingExtraError
from fundus_core.files import find_images
from fundus_core.schema import nearest
from fundus_core.sheet import read_sheet
from fundus_train.sources.photograph import Photograph

LABELS = ("normal", "diabetes", "glaucoma", "cataract", "amd", "hypertension", "myopia", "other")
COLUMNS = ("ID", "Left-Fundus", "Right-Fundus", "Left-Diagnostic Keywords", "Right-Diagnostic Keywords")
TABLES = ("data.xlsx", "full_df.csv")  # the authors' spreadsheet; the csv made from it on Kaggle
FOLDERS = ("Training Images", "preprocessed_images")

NO_FUNDUS = ("no fundus image", "anterior segment image")
NO_DIAGNOSIS = ("lens dust", "low image quality", "image offset", "optic disk photographically invisible")
# Order matters: "hypertensive retinopathy", "myopia retinopathy" and "chorioretinopathy" are not diabetic.
RULES = (
    (re.compile(r"^normal fundus$"), "normal"),
    (re.compile(r"glaucoma"), "glaucoma"),
    (re.compile(r"cataract"), "cataract"),
    (re.compile(r"age[- ]related macular degeneration"), "amd"),
    (re.compile(r"hypertensive"), "hypertension"),
    (re.compile(r"myopi"), "myopia"),
    (re.compile(r"\bretinopathy"), "diabetes"),
    (re.compile(r""), "other"),
)


def read_odir(folder: Path, labels: Sequence[str] = ()) -> list[Photograph]:
    """Read data.xlsx with "Training Images", or full_df.csv with "preprocessed_images", at any depth.

    Raises:
        LabelsError: neither table, a table without one of `COLUMNS`, a file that is no spreadsheet.
        MissingExtraError: openpyxl is not installed.
    """
    table = _first(folder, TABLES, "table")
    images = {image.path.name: image.path for image in find_images([_first(folder, FOLDERS, "folder")])}
    rows = _read_xlsx(table) if table.suffix == ".xlsx" else _read_csv(table)
    eyes = (eye for row in rows for eye in _eyes(row))
    # full_df.csv repeats both eyes of a patient on the line of each
    of_name = {name: (patient, eye, keywords) for name, patient, eye, keywords in eyes if name}
    found = []
    for name, (patient, eye, keywords) in of_name.items():
        values, reason = labels_of(keywords)
        found.append(Photograph(images.get(name, folder / Path(name).name), values, patient, eye, reason))
    return found


def labels_of(keywords: str) -> tuple[dict[str, int], str]:
    """Return the 8 labels that one eye's keywords mean, and "" or the reason why the eye has none."""
    # the spreadsheet mixes plain and full-width commas
    words = [word for part in re.split("[,\uff0c]", keywords) if (word := part.strip().casefold())]
    if any(word in NO_FUNDUS for word in words):
        return {}, f"no_fundus: the keywords say {', '.join(words)}."
    diagnoses = [word for word in words if word not in NO_DIAGNOSIS]
    if not diagnoses:
        return {}, f"no_diagnosis: the keywords say {', '.join(words) or 'nothing'}."
    present = {next(label for rule, label in RULES if rule.search(word)) for word in diagnoses}
    return {label: int(label in present) for label in LABELS}, ""


def _eyes(row: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    for side in ("Left", "Right"):
        yield row[f"{side}-Fundus"], row["ID"], side.lower(), row[f"{side}-Diagnostic Keywords"]


def _first(folder: Path, names: Sequence[str], what: str) -> Path:
    """Return the first of `names` that lies anywhere below `folder`."""
    for name in names:
        if found := sorted(folder.rglob(name)):
            return found[0]
    raise LabelsError(f"{folder} has no {what} {' or '.join(names)}. Name the unpacked ODIR-5K folder.")


def _read_csv(table: Path) -> list[dict[str, str]]:
    sheet = read_sheet(table, LabelsError)
    cells = zip(*(sheet.texts(column) for column in COLUMNS), strict=True)
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells]


def _read_xlsx(table: Path) -> list[dict[str, str]]:
    try:
        import openpyxl
    except ImportError:
        raise MissingExtraError("train", "the package 'openpyxl'") from None
    try:
        book = openpyxl.load_workbook(table, read_only=True, data_only=True)
        header, *rows = book.worksheets[0].iter_rows(values_only=True)
    except Exception:  # a damaged archive may raise nearly anything
        raise LabelsError(f"{table} is no spreadsheet with a header line. Unpack it again.") from None
    names = ["" if cell is None else str(cell).strip() for cell in header]
    for column in COLUMNS:
        if column not in names:
            raise LabelsError(f"{table}: there is no column {column!r}.{nearest(column, names)}")
    at = [(column, names.index(column)) for column in COLUMNS]
    filled = (row for row in rows if any(cell is not None for cell in row))
    return [{column: "" if row[i] is None else str(row[i]).strip() for column, i in at} for row in filled]
