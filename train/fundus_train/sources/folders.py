"""Data sets that say the class by a folder's name, at any depth: train/normal/1.jpg, normal/image/1.jpg."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fundus_core.errors import LabelsError
from fundus_core.files import find_images
from fundus_core.sheet import Sheet, read_sheet
from fundus_train.sources.photograph import GLAUCOMA, NO_GLAUCOMA, Photograph, classes_of

ORIGA_EYES = {"OD": "right", "OS": "left"}


def read_folders(folder: Path, labels: Sequence[str] = ()) -> list[Photograph]:
    """Read a tree in which a folder above each image is a class's name.

    Raises:
        LabelsError: no folder above an image is a class's name, or two disagree.
    """
    return [_classified(path, folder, parents) for path, parents in _images(folder)]


def read_lag(folder: Path, labels: Sequence[str] = ()) -> list[Photograph]:
    """Read LAG: `suspicious_glaucoma/image` and `non_glaucoma/image`, or a plain folder per class.

    Beside `image`, the authors' tree has pictures of `attention_map`, which are no photographs. Newer
    versions on Kaggle have train, validation and test, and the class in front of the file's name.
    """
    return [
        _classified(path, folder, (*parents, path.stem.rstrip("0123456789._- ()")))
        for path, parents in _images(folder)
        if "attention_map" not in parents
    ]


def read_origa(folder: Path, labels: Sequence[str] = ()) -> list[Photograph]:
    """Read `.../Train|Validation/Glaucoma_Positive|Glaucoma_Negative` and the eye from glaucoma.csv.

    Images outside the class folders are the same ones in another form, and are passed over. An image whose
    folder and table disagree is not used.

    Raises:
        LabelsError: no class folders, or glaucoma.csv without its columns.
    """
    sorted_by_class = [(path, parents) for path, parents in _images(folder) if classes_of(parents)]
    if not sorted_by_class:
        raise LabelsError(f"{folder} has no folders Glaucoma_Positive and Glaucoma_Negative. Check the path.")
    photographs = [_classified(path, folder, parents) for path, parents in sorted_by_class]
    tables = sorted(folder.rglob("glaucoma.csv"))
    return list(_with_table(photographs, read_sheet(tables[0], LabelsError))) if tables else photographs


def _with_table(photographs: Sequence[Photograph], sheet: Sheet) -> Iterator[Photograph]:
    cells = zip(sheet.texts("Eye"), sheet.texts("Glaucoma"), strict=True)
    of_name = dict(zip(sheet.texts("Filename"), cells, strict=True))
    for photograph in photographs:
        label = str(photograph.labels["glaucoma"])
        eye, in_table = of_name.get(photograph.path.name, ("", label))
        reason = ""
        if in_table != label:
            reason = f"conflicting_labels: the folder says {label}, {sheet.path.name} says {in_table}."
        yield replace(photograph, eye=ORIGA_EYES.get(eye, ""), reason=reason)


def _images(folder: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield each image with the names of the folders above it, from `folder` down."""
    for image in find_images([folder]):
        yield image.path, tuple(image.image_id.split("/")[:-1])


def _classified(path: Path, folder: Path, words: Sequence[str]) -> Photograph:
    found = classes_of(words)
    if len(found) != 1:
        problem = "two folders that disagree" if found else "no folder that names a class"
        known = f"Known for glaucoma: {', '.join(GLAUCOMA)}; for none: {', '.join(NO_GLAUCOMA)}"
        where = path.relative_to(folder.absolute())
        raise LabelsError(f"'{where}' in {folder} has {problem} above it. {known}. Rename or move it.")
    return Photograph(path, {"glaucoma": found.pop()})
