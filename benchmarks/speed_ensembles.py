"""What benchmarks/speed.py measures with: photographs of two sizes, and two ensembles in two precisions."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import count, islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import onnx
import torch

from fundus_core.console import say
from fundus_core.ensemble import (
    AVERAGE_MODEL,
    MODEL_ONNX,
    EnsembleSpec,
    Precision,
    fold_model,
    write_manifest,
)
from fundus_core.errors import UsageError
from fundus_core.files import find_images
from fundus_core.phantoms import CAMERAS, draw, encode, plan
from fundus_core.preprocess import Pixels, PreprocessSpec, preprocess_encoded
from fundus_core.repository import check_repository, digests, write_rendered
from fundus_core.serving import Serving
from fundus_export.onnx import save
from fundus_export.precision import fold_graph, quantised
from fundus_train.network import FundusNetwork, build_network
from fundus_train.recipe import Network, Recipe
from fundus_train.rounding import round_weights

SIDES_PX = (1900, 3500)  # of the photographs
JPEG_QUALITY = 92
FP32: Precision = "fp32"
INT8: Precision = "int8"
REFERENCE, RESNEST = "reference", "resnest50d"
RESNEST_PX = 512
JPEG_STARTS = b"\xff\xd8"
FIRST_SEED = 3_000_000  # of the phantoms; none of training

Made = TypeVar("Made")
Row = Callable[[], float]  # answers all photographs once and returns images/s
Rows = dict[tuple[str, str], Row]  # by the row's name, and by the photographs or TENSORS
TENSORS = "in memory"  # decoded and preprocessed before


@dataclass(frozen=True)
class Ensemble:
    """The same folds in each precision, and the photographs that all rows answer, by their side in px."""

    name: str
    spec: EnsembleSpec
    repositories: dict[Precision, Path]
    photographs: dict[int, list[Path]]

    def tensors(self) -> Pixels:
        """Return the photographs as the folds get them (N, S, S, 3)."""
        return preprocessed(self.photographs[SIDES_PX[0]], self.spec.preprocess)

    def graphs(self, precision: Precision) -> list[Path]:
        """Return the graph of each fold."""
        repository = self.repositories[precision]
        return [repository / fold_model(fold.index) / MODEL_ONNX for fold in self.spec.folds]

    def folds(self, precision: Precision, make: Callable[[Path], Made]) -> list[Made]:
        """Return for each fold what `make` makes of its graph: once for graphs that are the same.

        Four sessions, networks and models of resnest50d for every row would need more memory than a PC has.
        """
        paths = self.graphs(precision)
        digests = [sha256(path.read_bytes()).digest() for path in paths]
        made = {digest: make(path) for digest, path in dict(zip(digests, paths, strict=True)).items()}
        return [made[digest] for digest in digests]


def side_name(side_px: int) -> str:
    """Return how tables call photographs of a size."""
    return f"{side_px} px"


def preprocessed(paths: Sequence[Path], spec: PreprocessSpec) -> Pixels:
    """Return the pixels (N, S, S, 3) of photographs."""
    return np.stack([preprocess_encoded(path.read_bytes(), spec) for path in paths])


def photographs(source: Path | None, folder: Path, n: int) -> dict[int, list[Path]]:
    """Write `n` JPEG photographs of each size; without a `source` of them they are phantoms."""
    made: dict[int, list[Path]] = {side_px: [] for side_px in SIDES_PX}
    say(f"writing {n} photographs of {' and of '.join(map(side_name, SIDES_PX))}")
    for number, data in enumerate(islice(_files(source), n)):
        for side_px, paths in made.items():
            paths.append(folder / str(side_px) / f"{number:03}.jpg")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            paths[-1].write_bytes(sized(data, side_px))
    if len(made[SIDES_PX[0]]) < n:
        raise UsageError(f"'{source}' has fewer than {n} photographs. Name another folder.")
    return made


def _files(source: Path | None) -> Iterator[bytes]:
    """Yield encoded photographs."""
    if source is not None:
        yield from (ref.path.read_bytes() for ref in find_images([source]))
    else:
        plans = (replace(plan(seed), camera=CAMERAS[0]) for seed in count(FIRST_SEED))
        yield from (encode(draw(each).pixels, each.camera) for each in plans)


def sized(data: bytes, side_px: int) -> bytes:
    """Return a photograph whose longer side is `side_px`: the same bytes if it is a JPEG of that size."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    height, width = pixels.shape[:2]
    scale = side_px / max(height, width)
    if scale == 1 and data.startswith(JPEG_STARTS):
        return data
    size = (round(width * scale), round(height * scale))
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", resized, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def reference(repository: Path, folder: Path, timed: dict[int, list[Path]], others: list[Path]) -> Ensemble:
    """Return the ensemble of a repository; `others` are the photographs that show 8 bits their ranges."""
    return _with_int8(REFERENCE, repository, folder, timed, others)


def resnest(repository: Path, folder: Path, timed: dict[int, list[Path]], others: list[Path]) -> Ensemble:
    """Return an ensemble of resnest50d on the whole field, of which `repository` gives all but the folds.

    All folds have the same random weights: time does not depend on them.
    """
    say(f"exporting {RESNEST}")
    base, preprocess = check_repository(repository), PreprocessSpec(RESNEST_PX)
    network, pixels = random_network(RESNEST, preprocess), preprocessed(others, preprocess)
    round_weights(network, torch.from_numpy(pixels))
    folds = tuple(replace(fold, architecture=RESNEST) for fold in base.folds)
    spec = replace(
        base, name=RESNEST, preprocess=preprocess, normalise=network.normalise, folds=folds, precision=FP32
    )
    graph = fold_graph(network, spec.view_table, FP32, pixels)
    _write(repository, folder / f"{RESNEST}-{FP32}", spec, [graph] * len(folds))
    return _with_int8(RESNEST, folder / f"{RESNEST}-{FP32}", folder, timed, others)


def random_network(architecture: str, preprocess: PreprocessSpec) -> FundusNetwork:
    """Return a network with random weights."""
    return build_network(Recipe("speed", Network(architecture, pretrained=False), preprocess=preprocess))


def _with_int8(
    name: str, fp32: Path, folder: Path, timed: dict[int, list[Path]], others: list[Path]
) -> Ensemble:
    say(f"quantising {name}")
    spec = check_repository(fp32)
    ensemble = Ensemble(name, spec, {FP32: fp32, INT8: folder / f"{name}-{INT8}"}, timed)
    pixels = preprocessed(others, spec.preprocess)
    graphs = ensemble.folds(FP32, lambda path: quantised(onnx.load(path), pixels))
    _write(fp32, ensemble.repositories[INT8], replace(spec, precision=INT8), graphs)
    return ensemble


def _write(base: Path, folder: Path, spec: EnsembleSpec, graphs: Sequence[onnx.ModelProto]) -> None:
    """Write a repository that has its average from `base`, and no golden images."""
    average = f"{AVERAGE_MODEL}/{MODEL_ONNX}"
    (folder / average).parent.mkdir(parents=True)
    shutil.copyfile(base / average, folder / average)
    for fold, graph in zip(spec.folds, graphs, strict=True):
        save(graph, folder / fold_model(fold.index) / MODEL_ONNX)
    finish(folder, spec)


def finish(folder: Path, spec: EnsembleSpec) -> None:
    """Write all of a repository that is not there yet: its graphs are."""
    spec = replace(spec, files=digests(folder, folder.rglob("*.onnx")))
    write_manifest(spec, folder)
    write_rendered(folder, spec, Serving())
