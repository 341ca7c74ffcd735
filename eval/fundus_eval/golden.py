"""The golden images of a model repository, and what PyTorch answered to them at export.

`fundus_ensemble/golden/` holds synthetic phantoms and their labels.csv; answers.csv has PyTorch's answer to
each of them, and to the exporter's own images, which are known by their SHA-256 alone: patients' pictures and
names stay outside.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundus_core.ensemble import ENSEMBLE_MODEL, EnsembleSpec
from fundus_core.errors import BundleError, UsageError
from fundus_core.files import find_images
from fundus_core.phantoms import LABELS_FILE, write_samples
from fundus_core.provenance import sha256_of
from fundus_core.reading import read_labels, read_scores
from fundus_core.rows import ScoreFormat, ScoreRow, score_writer
from fundus_core.tables import UNLABELLED, LabelTable
from fundus_eval.parity import Answers

GOLDEN = f"{ENSEMBLE_MODEL}/golden"  # tritonserver takes every folder of the root for a model
ANSWERS_FILE = "answers.csv"
N_PHANTOMS = 16
FIRST_SEED = 2_000_000  # far from those that recipes draw for training
PHANTOM_LABEL = "glaucoma"


@dataclass(frozen=True)
class Golden:
    """N images with PyTorch's answers: phantoms first, then those of `own` files that have one.

    Args:
        paths: N files.
        answers: of PyTorch.
        truth: (N, K) of 0 and 1, -1 where a label is not known.
    """

    paths: tuple[Path, ...]
    answers: Answers
    truth: NDArray[np.int8]


def draw_phantoms(repository: Path) -> tuple[Path, ...]:
    """Draw the golden phantoms into a repository; return their files."""
    folder = repository / GOLDEN
    return tuple(folder / image_id for image_id in write_samples(folder, N_PHANTOMS, FIRST_SEED))


def write_answers(repository: Path, spec: EnsembleSpec, paths: Sequence[Path], answers: Answers) -> None:
    """Write PyTorch's answers to N files: under their names if golden phantoms, else under their SHA-256."""
    folder = repository / GOLDEN
    table = ScoreFormat(spec.labels, spec.thresholds, len(spec.folds), "")  # the digest covers this file
    written = set()
    with score_writer(folder / ANSWERS_FILE, table) as write:
        for path, probability, folds in zip(paths, answers.probability, answers.folds, strict=True):
            sha256 = sha256_of(path)
            image_id = path.name if path.parent == folder else sha256
            if image_id not in written:
                write(ScoreRow(image_id, sha256, "scored", "", tuple(probability), tuple(map(tuple, folds))))
            written.add(image_id)


def read_golden(repository: Path, spec: EnsembleSpec, own: Path | None, labels: LabelTable | None) -> Golden:
    """Return the golden images of a repository, and those below `own` that it has answers for.

    Raises:
        BundleError: the repository has no golden answers, or a golden image is missing.
        UsageError: no image below `own` has an answer.
    """
    folder = repository / GOLDEN
    if not (folder / ANSWERS_FILE).is_file():
        hint = "Export the ensemble again."
        raise BundleError(f"'{repository}' has no {GOLDEN}/{ANSWERS_FILE} to compare with. {hint}")
    table, phantoms = read_scores(folder / ANSWERS_FILE), phantom_labels(repository, spec)
    row_of = {image_id: row for row, image_id in enumerate(table.image_id)}
    found = tuple(_answered(own, row_of)) if own else ()
    if own and not found:
        hint = "Give the images that were given at export, or export again with these."
        raise UsageError(f"No image below '{own}' has a golden answer. {hint}")
    paths = (*(folder / image_id for image_id in phantoms.image_id), *(path for path, _, _ in found))
    rows = [row_of[image_id] for image_id in phantoms.image_id] + [row for _, _, row in found]
    known = (labels or nothing_known(spec)).values_of([image_id for _, image_id, _ in found])
    answers = Answers(table.probability[rows], table.fold_probability[rows])
    return Golden(paths, answers, np.concatenate([phantoms.values, known]))


def phantom_labels(repository: Path, spec: EnsembleSpec) -> LabelTable:
    """Return the golden phantoms' labels: known for glaucoma, -1 for whatever else the ensemble answers."""
    path = repository / GOLDEN / LABELS_FILE
    known = read_labels(path, (PHANTOM_LABEL,))
    values = np.full((len(known.image_id), len(spec.labels)), UNLABELLED, np.int8)
    for column in (k for k, label in enumerate(spec.labels) if label == PHANTOM_LABEL):
        values[:, column] = known.values[:, 0]
    return LabelTable(known.image_id, spec.labels, values)


def _answered(own: Path, row_of: dict[str, int]) -> Iterator[tuple[Path, str, int]]:
    """Yield (file, image_id, row of the answers) of each image that has an answer."""
    for ref in find_images([own]):
        row = row_of.get(sha256_of(ref.path))
        if row is not None:
            yield ref.path, ref.image_id, row


def nothing_known(spec: EnsembleSpec) -> LabelTable:
    """Return an empty labels table."""
    return LabelTable((), spec.labels, np.empty((0, len(spec.labels)), np.int8))
