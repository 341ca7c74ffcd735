"""The images on which PyTorch and the exported graphs are compared, preprocessed as the server does it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import FundusError, ImageError
from fundus_core.files import find_images, read_encoded
from fundus_core.images import DEFAULT_LIMITS
from fundus_core.preprocess import Pixels, preprocess_encoded
from fundus_core.reading import read_scores
from fundus_core.tables import UNLABELLED, LabelTable
from fundus_eval.golden import nothing_known, phantoms
from fundus_eval.parity import Answers
from fundus_train.finished import finished_cases
from fundus_train.recipe import Recipe
from fundus_train.results import INNER_TEST


@dataclass(frozen=True)
class Pictures:
    """N preprocessed images, with (N, K) labels of 0 and 1, -1 where one is not known."""

    pixels: Pixels
    truth: NDArray[np.int8]

    def unlabelled(self) -> "Pictures":
        """Return them without what is known of them."""
        return replace(self, truth=np.full_like(self.truth, UNLABELLED))

    def __add__(self, other: "Pictures") -> "Pictures":
        pixels = np.concatenate([self.pixels, other.pixels])
        return Pictures(pixels, np.concatenate([self.truth, other.truth]))


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
    rows = [row_of[scores.image_id[i]] for i in chosen]
    pictures = Pictures(cases.pixels[cases.row[rows]], truth.values[rows])
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
    return _pictures(paths, nothing_known(spec).values_of([path.name for path in paths]), spec)


def own_pictures(folder: Path, labels: LabelTable | None, spec: EnsembleSpec) -> tuple[list[Path], Pictures]:
    """Return every image below `folder`, and what they look like to the folds.

    Raises:
        FundusError: a file that cannot be scored.
    """
    refs = list(find_images([folder]))
    truth = (labels or nothing_known(spec)).values_of([ref.image_id for ref in refs])
    paths = [ref.path for ref in refs]
    return paths, _pictures(paths, truth, spec)


def _pictures(paths: Sequence[Path], truth: NDArray[np.int8], spec: EnsembleSpec) -> Pictures:
    size = spec.preprocess.size_px
    pixels = np.empty((len(paths), size, size, 3), np.uint8)
    for i, path in enumerate(paths):
        try:
            pixels[i] = preprocess_encoded(read_encoded(path, DEFAULT_LIMITS), spec.preprocess)
        except ImageError as error:
            raise FundusError(f"'{path}': {error} Take it out of the folder.") from None
    return Pictures(pixels, truth)
