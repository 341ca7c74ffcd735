"""Labelled photographs, decoded and preprocessed once, then memory-mapped for all folds and epochs."""

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

import fundus_core
from fundus_core import phantoms
from fundus_core.errors import ImageError, LabelsError
from fundus_core.files import read_encoded
from fundus_core.images import DEFAULT_LIMITS
from fundus_core.preprocess import Pixels, PreprocessSpec, preprocess, see
from fundus_core.quality import MEASURES
from fundus_core.tables import LabelTable
from fundus_train.duplicates import join_groups
from fundus_train.guards import full_disk
from fundus_train.recipe import Recipe

Tick = Callable[[int, int], None]  # (done, total)
Outcome = dict[str, Any]  # of reading a photograph: {"sha256": ..., "quality": [Q]} or {"failed": reason}


@dataclass(frozen=True)
class Cases:
    """N usable cases: real photographs first, phantoms behind them.

    Args:
        image_id: N ids; a phantom's is "phantom-<seed>".
        pixels: (M, S, S, 3) uint8, memory-mapped; case i is `pixels[row[i]]`.
        row: (N,) rows of `pixels`.
        targets: (N, K) of 0 and 1, -1 where a label is not known.
        patient: (N,) numbers; cases of one number never straddle a split.
        source: (N,) the data set that each case is from; "" where the table names none.
        n_real: how many of the N are photographs.
        dropped: (image_id, reason) of each labelled photograph that is not among the N.
        quality: (n_real, Q) the measures of `fundus_core.quality.Quality`; (0, Q) where nobody asks.
        sha256: (n_real,) digests of the files; none where nobody asks.
    """

    image_id: tuple[str, ...]
    pixels: NDArray[np.uint8]
    row: NDArray[np.int64]
    targets: NDArray[np.int8]
    patient: NDArray[np.int64]
    source: tuple[str, ...]
    n_real: int
    dropped: tuple[tuple[str, str], ...]
    quality: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, len(MEASURES)), np.float32))
    sha256: tuple[str, ...] = ()

    @property
    def group(self) -> NDArray[np.int64]:
        """The number of each case's source and label combination (N,)."""
        number = np.unique(self.source, return_inverse=True)[1]
        keys = np.column_stack([number, self.targets])
        return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def load_cases(recipe: Recipe, labels: LabelTable, images: Path, cache: Path, tick: Tick) -> Cases:
    """Return the usable cases, from `cache` when the same spec and code made it from the same files.

    Dropped, with a reason: unreadable images, unlabelled ones (unless the recipe makes pseudo-labels for
    them), exact copies of an earlier image or of a labelled one (by SHA-256). Patients who share a copy count
    as one. `tick(done, total)` reports progress.

    Raises:
        LabelsError: not one photograph is left.
        FundusError: the disk has no room for the cache.
    """
    key = _cache_key(recipe, labels, images)
    if _stored_key(cache) != key or not (cache / "pixels.npy").is_file():
        _fill_cache(recipe, labels, images, cache, key, tick)
    index = json.loads((cache / "index.json").read_text())
    pixels = np.load(cache / "pixels.npy", mmap_mode="r")
    return _select(recipe, labels, images, index["outcomes"], pixels)


@contextmanager
def reading(progress: Progress) -> Iterator[Tick]:
    """Give what shows a bar while `load_cases` reads."""
    task = progress.add_task("reading", total=None)
    yield lambda done, total: progress.update(task, completed=done, total=total)
    progress.remove_task(task)


def _cache_key(recipe: Recipe, labels: LabelTable, images: Path) -> str:
    files = [(image_id, _stamp(images / image_id)) for image_id in labels.image_id]
    parts = (asdict(recipe.preprocess), asdict(recipe.phantoms), MEASURES, _code(), files)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@functools.cache
def _code() -> str:
    """Return a digest of what makes pixels: OpenCV, and all of core, since a list of its modules gets old."""
    digest = hashlib.sha256(cv2.__version__.encode())
    for path in sorted(Path(fundus_core.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns)


def _stored_key(cache: Path) -> str | None:
    try:
        return str(json.loads((cache / "index.json").read_text())["key"])
    except (OSError, ValueError, KeyError):
        return None


def _fill_cache(recipe: Recipe, labels: LabelTable, images: Path, cache: Path, key: str, tick: Tick) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "index.json").unlink(missing_ok=True)
    spec, total = recipe.preprocess, len(labels.image_id) + recipe.phantoms.count
    stored = _room_for(cache / "pixels.npy", (total, spec.size_px, spec.size_px, 3))
    outcomes: list[Outcome] = []
    threads = ThreadPoolExecutor()
    try:
        read = threads.map(lambda image_id: _photograph(images / image_id, spec), labels.image_id)
        drawn = threads.map(lambda seed: _phantom(seed, spec), recipe.phantoms.seeds)
        for i, (pixels, outcome) in enumerate(chain(read, drawn)):
            if pixels is not None:
                stored[i] = pixels
            outcomes.append(outcome)
            tick(i + 1, total)
    finally:
        threads.shutdown(cancel_futures=True)  # an interrupted run must not wait for the rest
    stored.flush()
    index = {"key": key, "image_id": labels.image_id, "outcomes": outcomes[: len(labels.image_id)]}
    (cache / "index.json").write_text(json.dumps(index))


def _room_for(path: Path, shape: tuple[int, ...]) -> "np.memmap[Any, np.dtype[np.uint8]]":
    """Return a new memory-mapped array whose space on the disk is taken already: a full disk says so now."""
    with full_disk(path.parent, math.prod(shape), "The cache of preprocessed images"):
        try:
            stored: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                path, mode="w+", dtype=np.uint8, shape=shape
            )
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    return stored


def _photograph(path: Path, spec: PreprocessSpec) -> tuple[Pixels | None, Outcome]:
    try:
        data = read_encoded(path, DEFAULT_LIMITS)
        pixels, quality = see(data, spec)
        sha256 = hashlib.sha256(data).hexdigest()
        return pixels, {"sha256": sha256, "quality": quality.vector.tolist()}
    except ImageError as error:
        return None, {"failed": f"{error.reason}: {error}"}


def _phantom(seed: int, spec: PreprocessSpec) -> tuple[Pixels, Outcome]:
    return preprocess(phantoms.render(seed).pixels, spec), {}


def _select(
    recipe: Recipe,
    labels: LabelTable,
    images: Path,
    outcomes: Sequence[Outcome],
    pixels: NDArray[np.uint8],
) -> Cases:
    reasons = list(_drop_reasons(labels, outcomes, recipe.pseudo_labels.rounds > 0))
    kept = [i for i, reason in enumerate(reasons) if not reason]
    if not kept:
        first = f"the first, '{images / labels.image_id[0]}': {reasons[0]}"
        hint = (
            " Is --images the folder that image_id is relative to?"
            if reasons[0].startswith("vanished")
            else ""
        )
        raise LabelsError(f"None of {len(reasons)} labelled images can be used; {first}{hint}")
    seeds = recipe.phantoms.seeds
    drawn = np.array([[phantoms.plan(seed).glaucoma] for seed in seeds], dtype=np.int8)
    patient, source = _patients(labels, outcomes), labels.source or ("",) * len(reasons)
    return Cases(
        image_id=(*(labels.image_id[i] for i in kept), *(f"phantom-{seed}" for seed in seeds)),
        pixels=pixels,
        row=np.array([*kept, *range(len(reasons), len(reasons) + len(seeds))]),
        targets=np.concatenate([labels.values[kept], drawn.reshape(len(seeds), len(recipe.labels))]),
        patient=np.concatenate([patient[kept], patient.max() + 1 + np.arange(len(seeds))]),
        source=(*(source[i] for i in kept), *["phantom"] * len(seeds)),
        n_real=len(kept),
        dropped=tuple((labels.image_id[i], reason) for i, reason in enumerate(reasons) if reason),
        quality=np.array([outcomes[i]["quality"] for i in kept], np.float32),
        sha256=tuple(outcomes[i]["sha256"] for i in kept),
    )


def _drop_reasons(labels: LabelTable, outcomes: Sequence[Outcome], keep_unlabelled: bool) -> Iterator[str]:
    """Yield "" or a reason for each photograph of the labels table."""
    unlabelled = (labels.values < 0).all(axis=1)
    first: dict[str, int] = {}
    for i in np.argsort(unlabelled, kind="stable").tolist():  # no unlabelled image replaces a labelled copy
        first.setdefault(outcomes[i].get("sha256", ""), i)
    for i, outcome in enumerate(outcomes):
        if "failed" in outcome:
            yield outcome["failed"]
        elif unlabelled[i] and not keep_unlabelled:
            yield "unlabelled: the labels table has no label for it."
        elif (original := first[outcome["sha256"]]) != i:
            known = (labels.values[[original, i]] >= 0).all(axis=0)
            clash = (labels.values[original] != labels.values[i])[known].any()
            but = ", whose labels contradict these" if clash else ""
            yield f"copy: the same bytes as {labels.image_id[original]}{but}."
        else:
            yield ""


def _patients(labels: LabelTable, outcomes: Sequence[Outcome]) -> NDArray[np.int64]:
    """Number the patients (N,); those who share an identical file get one number."""
    names = labels.patient_id or labels.image_id
    known = [name or image_id for name, image_id in zip(names, labels.image_id, strict=True)]
    number: NDArray[np.int64] = np.unique(known, return_inverse=True)[1].astype(np.int64)
    first: dict[str, int] = {}
    same = [(first.setdefault(each.get("sha256", str(i)), i), i) for i, each in enumerate(outcomes)]
    return join_groups(number, [pair for pair in same if pair[0] != pair[1]])
