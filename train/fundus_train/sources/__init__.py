"""Data sets as they were published -> one list of labelled photographs. The registry is plain data.

A new data set is a function `(folder, labels) -> photographs` and one line in `_KINDS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fundus_core.errors import LabelsError, UsageError
from fundus_core.schema import nearest
from fundus_train.sources.folders import read_folders, read_lag, read_origa
from fundus_train.sources.odir import read_odir
from fundus_train.sources.photograph import Photograph
from fundus_train.sources.tables import read_csv, read_hygd

Reader = Callable[[Path, Sequence[str]], Sequence[Photograph]]


@dataclass(frozen=True)
class SourceKind:
    """How one kind of data set is read; `description` is for the help and the docs."""

    description: str
    read: Reader


_KINDS = (
    ("csv", "a labels table, or a folder with labels.csv; image_id is relative to its folder", read_csv),
    ("folders", "a folder per class (glaucoma, normal, positive, 1, ...), at any depth", read_folders),
    ("glaucomadataset", "Kaggle himanshuagarwal1998/glaucomadataset: a folder per class", read_folders),
    ("hygd", "Hillel Yaffe Glaucoma Dataset (PhysioNet): images and a labels table", read_hygd),
    ("lag", "Kaggle sreeharims/glaucoma-dataset, and LAG as its authors give it", read_lag),
    ("odir", "Kaggle andrewmvd/ocular-disease-recognition-odir5k: 8 labels of each eye", read_odir),
    ("origa", "Kaggle sshikamaru/glaucoma-detection: Train/Validation, glaucoma.csv", read_origa),
)
SOURCES = {name: SourceKind(description, read) for name, description, read in _KINDS}


def read_source(kind: str, path: Path, labels: Sequence[str]) -> tuple[Photograph, ...]:
    """Return the photographs of one data set, in the order of its table or its sorted paths.

    Raises:
        UsageError: an unknown kind, or nothing at `path`.
        LabelsError: the data set has another form than its kind, or holds no photograph.
    """
    if kind not in SOURCES:
        raise UsageError(f"There is no source kind '{kind}'.{nearest(kind, SOURCES)}")
    if not path.exists():
        raise UsageError(f"There is no file or folder '{path}'. Check the path.")
    found = tuple(SOURCES[kind].read(path, labels))
    if not found:
        raise LabelsError(f"{path} holds no photograph of the kind '{kind}'. Check the path and the kind.")
    return found
