"""The images on which PyTorch and the exported graphs are compared, preprocessed as the server does it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import FundusError, ImageError, UsageError
from fundus_core.files import find_images, read_encoded
from fundus_core.images import DEFAULT_LIMITS
from fundus_core.preprocess import Pixels, preprocess_encoded
from fundus_core.reading import read_scores
from fundus_core.tables import LabelTable
from fundus_eval.golden import own_truth, phantoms
from fundus_eval.parity import Answers, Truth
from fundus_train.finished import finished_cases
from fundus_train.recipe import Recipe
from fundus_train.results import INNER_TEST


@dataclass(frozen=True)
class Pictures:
    """N preprocessed images, and what is known of them."""

    pixels: Pixels
    truth: Truth

    def unlabelled(self) -> "Pictures":
        """Return them without what is known of them."""
        return replace(self, truth=Truth.unknown(*self.truth.values.shape))

    def __add__(self, other: "Pictures") -> "Pictures":
        return Pictures(np.concatenate([self.pixels, other.pixels]), self.truth + other.truth)


@dataclass(frozen=True)
class Own:
    """Images of the user's own: the files of N `pictures`."""

    paths: tuple[Path, ...]
    pictures: Pictures


@dataclass(frozen=True)
class HeldOut:
    """Photographs of the inner test, spread evenly, and the answers that the run itself recorded."""

    pictures: Pictures
    recorded: Answers


def held_out(run: Path, recipe: Recipe, count: int) -> HeldOut:
    """Return up to `count` photographs of the inner test of a finished run.

    Raises:
        BundleError: the run's cache of preprocessed images is gone, or belongs to other images.
    """
    truth, _, cases = finished_cases(run, recipe)
    scores = read_scores(run / INNER_TEST)
    row_of = {image_id: row for row, image_id in enumerate(truth.image_id)}
    chosen = _spread(len(scores.image_id), count)
    ids = [scores.image_id[i] for i in chosen]
    rows = cases.row[[row_of[image_id] for image_id in ids]]
    pictures = Pictures(cases.pixels[rows], Truth.of(truth, ids))
    return HeldOut(pictures, Answers(scores.probability[chosen], scores.fold_probability[chosen]))


def calibration_pixels(run: Path, recipe: Recipe, count: int) -> Pixels:
    """Return up to `count` preprocessed photographs (N, S, S, 3) that nothing is tested on.

    Raises:
        BundleError: the run's cache of preprocessed images is gone, or belongs to other images.
    """
    _, part, cases = finished_cases(run, recipe)
    trained = np.flatnonzero(np.char.startswith(part, "fold_"))
    pixels: Pixels = cases.pixels[cases.row[trained[_spread(len(trained), count)]]]
    return pixels


def _spread(n: int, count: int) -> NDArray[np.int64]:
    """Return up to `count` of n places, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(count, n), dtype=np.int64))


def golden_pictures(repository: Path, spec: EnsembleSpec) -> Pictures:
    """Return the golden phantoms of a repository, whose labels say nothing of photographs."""
    paths = phantoms(repository)
    return _pictures(paths, Truth.unknown(len(paths), len(spec.labels)), spec)


def own_pictures(folder: Path, labels: LabelTable | None, spec: EnsembleSpec) -> Own:
    """Return every image below `folder`, and what they look like to the folds.

    Raises:
        UsageError: there is none.
        LabelsError: the labels are of other images.
        FundusError: a file that cannot be scored.
    """
    refs = list(find_images([folder]))
    if not refs:
        raise UsageError(f"--images {folder} holds no image. Check the path.")
    paths = tuple(ref.path for ref in refs)
    return Own(paths, _pictures(paths, own_truth(labels, [ref.image_id for ref in refs], spec), spec))


def _pictures(paths: Sequence[Path], truth: Truth, spec: EnsembleSpec) -> Pictures:
    size = spec.preprocess.size_px
    pixels = np.empty((len(paths), size, size, 3), np.uint8)
    for i, path in enumerate(paths):
        try:
            pixels[i] = preprocess_encoded(read_encoded(path, DEFAULT_LIMITS), spec.preprocess)
        except ImageError as error:
            raise FundusError(f"'{path}': {error} Take it out of the folder.") from None
    return Pictures(pixels, truth)
