"""The golden images of a model repository, and what was answered to them at export.

`fundus_ensemble/golden/` holds synthetic phantoms and their labels.csv; answers.csv has PyTorch's answer to
each of them, and to the exporter's own images, which are known by their SHA-256 alone: patients' pictures and
names stay outside. An int8 ensemble may answer otherwise than PyTorch, so graph_answers.csv has what its own
graphs answered, in onnxruntime on the CPU: a server must repeat that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fundus_core.ensemble import ENSEMBLE_MODEL, EnsembleSpec, Precision
from fundus_core.errors import BundleError, LabelsError, UsageError
from fundus_core.files import find_images
from fundus_core.phantoms import LABELS_FILE, write_samples
from fundus_core.provenance import sha256_of
from fundus_core.reading import read_labels, read_scores
from fundus_core.rows import ScoreFormat, ScoreRow, score_writer
from fundus_core.tables import UNLABELLED, LabelTable, ScoreTable, some
from fundus_eval.parity import LIMITS, SAME_GRAPHS, Answers, Limit, Truth

GOLDEN = f"{ENSEMBLE_MODEL}/golden"  # tritonserver takes every folder of the root for a model
PYTORCH, GRAPHS = "PyTorch", "graphs"  # who answered
ANSWERS_FILES = {PYTORCH: "answers.csv", GRAPHS: "graph_answers.csv"}
N_PHANTOMS = 16
FIRST_SEED = 2_000_000  # far from those that recipes draw for training


def held_to(precision: Precision) -> dict[str, Limit]:
    """Return whose answers a repository of this precision holds, and how near a server must come to them."""
    return {PYTORCH: LIMITS[precision]} | ({GRAPHS: SAME_GRAPHS} if precision == "int8" else {})


@dataclass(frozen=True)
class Golden:
    """N images with their answers: phantoms first, then those of `own` files that have one.

    Args:
        paths: N files.
        answers: by who gave them, for each of `held_to`.
        truth: of the images; a phantom's label says nothing of photographs.
    """

    paths: tuple[Path, ...]
    answers: dict[str, Answers]
    truth: Truth


def draw_phantoms(repository: Path) -> tuple[Path, ...]:
    """Draw the golden phantoms into a repository; return their files."""
    folder = repository / GOLDEN
    return tuple(folder / image_id for image_id in write_samples(folder, N_PHANTOMS, FIRST_SEED))


def write_answers(
    repository: Path, spec: EnsembleSpec, paths: Sequence[Path], who: str, answers: Answers
) -> None:
    """Write the answers to N files: under their names if golden phantoms, else under their SHA-256."""
    folder = repository / GOLDEN
    table = ScoreFormat(spec.labels, spec.thresholds, len(spec.folds), "")  # the digest covers this file
    written = set()
    with score_writer(folder / ANSWERS_FILES[who], table) as write:
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
    tables = {who: _table(repository, who) for who in held_to(spec.precision)}
    found = tuple(_answered(own, tables[PYTORCH])) if own else ()
    if own and not found:
        hint = "Give the images that were given at export, or export again with these."
        raise UsageError(f"No image below '{own}' has a golden answer. {hint}")
    drawn = phantoms(repository)
    ids = [path.name for path in drawn] + [sha256 for _, _, sha256 in found]
    truth = Truth.unknown(len(drawn), len(spec.labels))
    truth += own_truth(labels, [image_id for _, image_id, _ in found], spec)
    paths = (*drawn, *(path for path, _, _ in found))
    return Golden(paths, {who: _answers(table, ids) for who, table in tables.items()}, truth)


def phantoms(repository: Path) -> tuple[Path, ...]:
    """Return the files of the golden phantoms of a repository."""
    folder = repository / GOLDEN
    return tuple(folder / image_id for image_id in read_labels(folder / LABELS_FILE).image_id)


def _answered(own: Path, table: ScoreTable) -> Iterator[tuple[Path, str, str]]:
    """Yield (file, image_id, SHA-256) of each image that has an answer."""
    answered = set(table.image_id)
    for ref in find_images([own]):
        if (sha256 := sha256_of(ref.path)) in answered:
            yield ref.path, ref.image_id, sha256


def _answers(table: ScoreTable, ids: Sequence[str]) -> Answers:
    row_of = {image_id: row for row, image_id in enumerate(table.image_id)}
    rows = [row_of[image_id] for image_id in ids]
    return Answers(table.probability[rows], table.fold_probability[rows])


def _table(repository: Path, who: str) -> ScoreTable:
    path = repository / GOLDEN / ANSWERS_FILES[who]
    if not path.is_file():
        hint = "Export the ensemble again."
        raise BundleError(f"'{repository}' has no {GOLDEN}/{path.name} to compare with. {hint}")
    return read_scores(path)


def own_truth(labels: LabelTable | None, image_ids: Sequence[str], spec: EnsembleSpec) -> Truth:
    """Return what `labels` say of a user's own images.

    Raises:
        LabelsError: they say nothing of any.
    """
    if labels is None:
        return Truth.unknown(len(image_ids), len(spec.labels))
    truth = Truth.of(labels, image_ids)
    if (truth.values == UNLABELLED).all():
        hint = "image_id is the path relative to that folder."
        raise LabelsError(f"--labels knows none of --images, such as {some(image_ids)}. {hint}")
    return truth


def check_own(images: Path | None, labels: Path | None) -> None:
    """Refuse labels without the images that they are of.

    Raises:
        UsageError: there are only labels.
    """
    if labels and not images:
        raise UsageError("--labels says what is true of --images. Give both, or neither.")
