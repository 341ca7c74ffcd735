"""The photographs of a finished run, preprocessed, as its tables list them."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import BundleError
from fundus_core.reading import read_labels
from fundus_core.tables import LabelTable
from fundus_train.cases import Cases
from fundus_train.fit import CACHE
from fundus_train.recipe import Recipe
from fundus_train.results import SPLIT


def finished_cases(run: Path, recipe: Recipe) -> tuple[LabelTable, NDArray[np.str_], Cases]:
    """Return the labels, the part and the preprocessed picture of each photograph of split.csv.

    Raises:
        BundleError: the cache is gone, or belongs to other images.
    """
    truth = read_labels(run / SPLIT, recipe.labels, ("part", "sha256"))
    try:
        index = json.loads((run / CACHE / "index.json").read_text())
        stored, outcomes = index["image_id"], index["outcomes"]
        pixels = np.load(run / CACHE / "pixels.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError):
        hint = "Run the same `fundus-train fit` command again; it fills the cache."
        raise BundleError(f"'{run}' has no cache of preprocessed images. {hint}") from None
    row_of, n = {image_id: row for row, image_id in enumerate(stored)}, len(truth.image_id)
    if not row_of.keys() >= set(truth.image_id):
        raise BundleError(mismatch(run))
    rows = np.array([row_of[image_id] for image_id in truth.image_id], np.int64)
    if [outcomes[row].get("sha256") for row in rows] != list(truth.columns["sha256"]):
        raise BundleError(mismatch(run))
    alone, nowhere = np.arange(n), ("",) * n  # neither patients nor sources matter here
    cases = Cases(truth.image_id, pixels, rows, truth.values, alone, nowhere, n, ())
    return truth, np.array(truth.columns["part"]), cases


def mismatch(run: Path) -> str:
    """Return the sentence about a cache that is not that of the tables."""
    return (
        f"The cache of '{run}' holds other images than its split.csv and oof.csv: files were changed later. "
        "Run the same `fundus-train fit` command in a new folder."
    )
