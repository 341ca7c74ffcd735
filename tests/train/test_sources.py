from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fundus_core.errors import LabelsError, MissingExtraError, UsageError
from fundus_train.sources import SOURCES, read_source
from fundus_train.sources.odir import LABELS, labels_of
from fundus_train.sources.photograph import Photograph

COMMA = "\uff0c"  # full width, as in the published spreadsheet
HEADER = [f"{side}-{what}" for what in ("Fundus", "Diagnostic Keywords") for side in ("Left", "Right")]
HEADER = ["ID", "Patient Age", "Patient Sex", *HEADER, *"NDGCAHMO"]


def patient(number: int, left: str, right: str, labels: str) -> tuple[Any, ...]:
    return (number, 60, "Male", f"{number}_left.jpg", f"{number}_right.jpg", left, right, *map(int, labels))


PATIENTS = (
    patient(7, "normal fundus", "suspected glaucoma,drusen", "00100001"),  # G is of one eye only
    patient(8, f"lens dust{COMMA}normal fundus", "anterior segment image", "10000000"),
    patient(9, "low image quality", "cataract", "00010000"),
)


def tree(folder: Path, *names: str) -> Path:
    """Make empty files; the adapters look at names, not into images."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def read(kind: str, path: Path, labels: Sequence[str] = ("glaucoma",)) -> dict[str, Photograph]:
    folder = path if path.is_dir() else path.parent
    found = read_source(kind, path, labels)
    by_name = {photograph.path.relative_to(folder.absolute()).as_posix(): photograph for photograph in found}
    assert len(by_name) == len(found)
    return by_name


def glaucoma(found: Mapping[str, Photograph]) -> dict[str, int | None]:
    return {name: photograph.labels.get("glaucoma") for name, photograph in found.items()}


def test_every_kind_is_described_in_one_line() -> None:
    assert all(0 < len(kind.description) < 90 and "\n" not in kind.description for kind in SOURCES.values())


def test_an_unknown_kind_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no source kind 'odr'\. Did you mean 'odir'\?"):
        read_source("odr", tmp_path, ("glaucoma",))


@pytest.mark.parametrize("kind", SOURCES)
def test_an_empty_or_missing_folder_is_a_sentence(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UsageError, match=r"\."):
        read_source(kind, tmp_path, ("glaucoma",))
    with pytest.raises(UsageError, match="There is no file or folder"):
        read_source(kind, tmp_path / "gone", ("glaucoma",))


# --- folders that name the class


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Glaucoma_Positive/a.JPG", 1),
        ("Train/Glaucoma-Negative/a.png", 0),
        ("NonGlaucoma/a.jpg", 0),
        ("non glaucoma/deep/er/a.jpg", 0),
        ("1/a.jpg", 1),
        ("glaucoma/x/RG/a.jpg", 1),
    ],
)
@pytest.mark.parametrize("kind", ["folders", "glaucomadataset"])
def test_a_folder_names_the_class(tmp_path: Path, kind: str, name: str, label: int) -> None:
    assert glaucoma(read(kind, tree(tmp_path, name, "notes.txt"))) == {name: label}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "maybe/a.jpg",
            "'maybe/a.jpg' in .* has no folder that names a class above it. Known for glaucoma: gl",
        ),
        ("a.jpg", "'a.jpg' in .* has no folder that names a class"),
        ("normal/1/a.jpg", "'normal/1/a.jpg' in .* has two folders that disagree"),
    ],
)
def test_an_unclear_class_is_an_error(tmp_path: Path, name: str, problem: str) -> None:
    with pytest.raises(LabelsError, match=problem):
        read("folders", tree(tmp_path, "normal/b.jpg", name))


def test_lag_as_its_authors_give_it(tmp_path: Path) -> None:
    tree(tmp_path, "suspicious_glaucoma/image/1.jpg", "non_glaucoma/image/2.jpg")
    tree(tmp_path, "suspicious_glaucoma/attention_map/1.jpg", "suspicious_glaucoma/label/1.txt")
    found = glaucoma(read("lag", tmp_path))
    assert found == {"suspicious_glaucoma/image/1.jpg": 1, "non_glaucoma/image/2.jpg": 0}


def test_lag_with_the_class_in_the_name(tmp_path: Path) -> None:
    tree(tmp_path, "LAG/train/glaucoma.12.jpg", "LAG/test/non_glaucoma.3.jpg", "LAG/validation/normal_4.jpg")
    assert sorted(glaucoma(read("lag", tmp_path)).values(), key=str) == [0, 0, 1]
    with pytest.raises(LabelsError, match="no folder that names a class"):
        read("lag", tree(tmp_path, "LAG/test/5.jpg"))


def test_origa_takes_the_eye_from_its_table(tmp_path: Path) -> None:
    top = "Fundus_Train_Val_Data/Fundus_Scanes_Sorted"
    names = [f"{top}/Train/Glaucoma_Positive/001.jpg", f"{top}/Validation/Glaucoma_Negative/002.jpg"]
    doubtful, unknown = f"{top}/Train/Glaucoma_Negative/003.jpg", f"{top}/Train/Glaucoma_Negative/004.jpg"
    tree(tmp_path, *names, doubtful, unknown, "ORIGA/ORIGA/Images/001.jpg")
    assert glaucoma(read("origa", tmp_path)) == {names[0]: 1, names[1]: 0, doubtful: 0, unknown: 0}
    table = "Filename,ExpCDR,Eye,Set,Glaucoma\n001.jpg,0.7,OD,A,1\n002.jpg,0.4,OS,A,0\n003.jpg,0.8,OS,B,1\n"
    (tmp_path / "glaucoma.csv").write_text(table)
    found = read("origa", tmp_path)
    assert [found[name].eye for name in (*names, doubtful, unknown)] == ["right", "left", "left", ""]
    assert [name for name, photograph in found.items() if photograph.reason] == [doubtful]
    assert found[doubtful].reason == "conflicting_labels: the folder says 0, glaucoma.csv says 1."


# --- ODIR


@pytest.mark.parametrize(
    ("keywords", "present"),
    [
        ("normal fundus", ["normal"]),
        ("lens dust\uff0cnormal fundus", ["normal"]),
        ("Suspected Glaucoma", ["glaucoma"]),
        ("glaucoma, cataract", ["glaucoma", "cataract"]),
        ("hypertensive retinopathy,diabetic retinopathy", ["diabetes", "hypertension"]),
        ("moderate non proliferative retinopathy", ["diabetes"]),
        ("suspicious diabetic retinopathy", ["diabetes"]),
        ("wet age-related macular degeneration", ["amd"]),
        ("pathological myopia", ["myopia"]),
        ("myopic maculopathy", ["myopia"]),
        ("old chorioretinopathy", ["other"]),
        ("central serous chorioretinopathy", ["other"]),
        ("low image quality,maculopathy", ["other"]),
        ("optic nerve atrophy,glaucoma", ["glaucoma", "other"]),
    ],
)
def test_keywords_of_one_eye_become_labels(keywords: str, present: list[str]) -> None:
    labels, reason = labels_of(keywords)
    assert (tuple(labels), reason) == (LABELS, "")
    assert {name for name, value in labels.items() if value} == set(present)


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ("no fundus image", "no_fundus: the keywords say no fundus image."),
        ("anterior segment image,cataract", "no_fundus: the keywords say anterior segment image, cataract."),
        ("lens dust, image offset", "no_diagnosis: the keywords say lens dust, image offset."),
        ("", "no_diagnosis: the keywords say nothing."),
    ],
)
def test_an_eye_without_a_diagnosis_has_a_reason(keywords: str, reason: str) -> None:
    assert labels_of(keywords) == ({}, reason)


def spreadsheet(path: Path, header: Sequence[str] = HEADER) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="needs the train extra")
    book = openpyxl.Workbook()
    for row in (header, *PATIENTS, (None,) * len(header)):
        book.active.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)


def images_of(patients: Sequence[tuple[Any, ...]]) -> list[str]:
    return [name for row in patients for name in row[3:5]]


def check_odir(found: Mapping[str, Photograph], images: str) -> None:
    of = {name.removeprefix(images): photograph for name, photograph in found.items()}
    assert list(of) == images_of(PATIENTS)
    assert glaucoma(of) == dict(zip(of, (0, 1, 0, None, None, 0), strict=True))
    assert of["7_left.jpg"].labels == dict.fromkeys(LABELS, 0) | {"normal": 1}
    assert of["7_right.jpg"].labels == dict.fromkeys(LABELS, 0) | {"glaucoma": 1, "other": 1}
    assert {name: photograph.eye for name, photograph in of.items()} == {n: n[2:-4] for n in of}
    assert [photograph.patient_id for photograph in of.values()] == ["7", "7", "8", "8", "9", "9"]
    reasons = [photograph.reason.partition(":")[0] for photograph in of.values()]
    assert reasons == ["", "", "", "no_fundus", "no_diagnosis", ""]


def test_odir_labels_each_eye_from_the_spreadsheet(tmp_path: Path) -> None:
    images = "ODIR-5K/ODIR-5K/Training Images/"
    tree(tmp_path, *(images + name for name in images_of(PATIENTS)), "preprocessed_images/7_left.jpg")
    spreadsheet(tmp_path / "ODIR-5K/ODIR-5K/data.xlsx")
    check_odir(read("odir", tmp_path, LABELS), images)


def test_odir_from_the_csv_and_the_preprocessed_images(tmp_path: Path) -> None:
    tree(tmp_path, *(f"preprocessed_images/{name}" for name in images_of(PATIENTS)))
    lines = [",".join(f'"{cell}"' for cell in row) for row in (HEADER, *PATIENTS, *PATIENTS)]
    (tmp_path / "full_df.csv").write_text("\n".join(lines), encoding="utf-8")
    check_odir(read("odir", tmp_path, LABELS), "preprocessed_images/")


def test_odir_bad_tables_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "Training Images/7_left.jpg")
    table = tmp_path / "data.xlsx"
    spreadsheet(table, [name.replace("Left-Diagnostic Keywords", "Left Keywords") for name in HEADER])
    with pytest.raises(
        LabelsError, match=r"data.xlsx: there is no column 'Left-Diagnostic Keywords'. Did you"
    ):
        read("odir", tmp_path)
    table.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(LabelsError, match=r"data.xlsx is no spreadsheet .* Unpack it again"):
        read("odir", tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'openpyxl'.*fundus-triton\[train\]"):
        read("odir", tmp_path)


# --- tables


def test_csv_keeps_labels_patients_and_eyes(tmp_path: Path) -> None:
    text = "image_id,glaucoma,amd,patient_id,eye,age\nx/a.jpg,1,,P1,left,60\n./b.jpg,0,1,,,61\nc.jpg,,,P2,,\n"
    (tmp_path / "labels.csv").write_text(text)
    found = read("csv", tmp_path, ("glaucoma", "amd", "myopia"))
    assert {name: dict(photograph.labels) for name, photograph in found.items()} == {
        "x/a.jpg": {"glaucoma": 1},
        "b.jpg": {"glaucoma": 0, "amd": 1},
        "c.jpg": {},
    }
    assert [(p.patient_id, p.eye) for p in found.values()] == [("P1", "left"), ("", ""), ("P2", "")]


def test_csv_of_another_name_groups_by_group(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("image_id,glaucoma,patient_id,group\na.jpg,1,P1,G\nb.jpg,1,P2,G\n")
    assert [photograph.patient_id for photograph in read("csv", table).values()] == ["G", "G"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image_id,glaucom\na,1\n", "no column 'glaucoma'. Did you mean 'glaucom'"),
        ("image_id,glaucoma\na,2\n", "line 2 has glaucoma = '2'. Write 0, 1, or nothing"),
        ("image_id,glaucoma\n../a.jpg,1\n", "image_id '../a.jpg' is outside the table's folder"),
        ("image_id,glaucoma\n/etc/a.jpg,1\n", "image_id '/etc/a.jpg' is outside"),
        ("image_id,glaucoma,eye\na,1,OD\n", "line 2 has eye = 'OD'. Write left, right"),
    ],
)
def test_a_bad_csv_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(LabelsError, match=sentence):
        read("csv", tmp_path)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("labels.csv", "image_id,glaucoma,patient_id,group\nimages/0_0.jpg,1,0,0\nimages/5_1.jpg,0,5,0\n"),
        ("Labels.csv", "Image Name,Patient,Label,Quality Score\n0_0.jpg,0,GON+,6.2\n5_1.jpg,0,GON-,5\n"),
    ],
)
def test_hygd_in_both_forms(tmp_path: Path, table: str, text: str) -> None:
    images = "images" if table == "labels.csv" else "Images"
    tree(tmp_path, f"{images}/0_0.jpg", f"{images}/5_1.jpg")
    (tmp_path / table).write_text(text)
    found = read("hygd", tmp_path)
    assert glaucoma(found) == {f"{images}/0_0.jpg": 1, f"{images}/5_1.jpg": 0}
    assert [photograph.patient_id for photograph in found.values()] == ["0", "0"]


def test_hygd_with_another_label_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image_id,glaucoma,patient_id\na.jpg,1,1\nb.jpg,maybe,1\n")
    with pytest.raises(LabelsError, match=r"line 3 has the label 'maybe'. Known: GON\+, GON-, 1, 0"):
        read("hygd", tmp_path)


@pytest.mark.parametrize(
    ("kind", "folder", "positive", "negative"),
    [
        ("hygd", "hygd", 548, 199),
        ("csv", "odir-lowres", 306, 1074),
        ("csv", "airogs-light", 382, 385),
        ("folders", "airogs-light", 382, 385),
    ],
)
def test_real_folders(photographs: Path, kind: str, folder: str, positive: int, negative: int) -> None:
    if not (photographs / folder).is_dir():
        pytest.skip(f"no {folder} at {photographs}")
    found = read(kind, photographs / folder)
    values = list(glaucoma(found).values())
    assert (values.count(1), values.count(0), len(values)) == (positive, negative, positive + negative)
    assert all(photograph.path.is_file() for photograph in found.values())
