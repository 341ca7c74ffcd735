"""The ensemble's contract: `EnsembleSpec` <-> `manifest.json`, model and tensor names, the digest."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fundus_core.adaptive import Adaptive
from fundus_core.calibrator import Calibrator
from fundus_core.errors import BundleError
from fundus_core.preprocess import FIRST_REVISION, PreprocessSpec
from fundus_core.schema import build
from fundus_core.views import View, views_named

MANIFEST = "manifest.json"
LIVE = "live.json"  # in a folder of several bundles (`fundus-export deploy`), which has no manifest
MODEL_ONNX = "1/model.onnx"  # of each fold and of the average, below the model's folder

ENSEMBLE_MODEL = "fundus_ensemble"
PREPROCESS_MODEL = "fundus_preprocess"
AVERAGE_MODEL = "fundus_average"
ADAPTIVE_MODEL = "fundus_adaptive"  # answers as the ensemble, where the spec has `adaptive`

IMAGE = "image"  # BYTES [1]: one encoded file
PIXELS = "pixels"  # UINT8 [S, S, 3]
PROBABILITY = "probability"  # FP32 [K]
FOLD_PROBABILITY = "fold_probability"  # FP32 [F, K]
QUALITY = "quality"  # FP32 [Q]
BUNDLE = "bundle"  # BYTES [1]: the digest (hex) of the bundle that made this answer

MANIFEST_PARAMETER = "manifest"  # of the ensemble's config: the manifest as compact JSON
DIGEST_PARAMETER = "bundle_digest"
BUSY = ("queue size", "Request timeout expired")  # tritonserver's words: full, or waited in it for too long
STOPPING_PARAMETER = "stopping"  # of the adaptive model's config
AT_ONCE = "at_once"  # of the configs of the Python backend: requests that a model answers at the same time


def fold_model(index: int) -> str:
    """Return the model name of fold `index`."""
    return f"fundus_fold_{index}"


Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class Normalise:
    """Per-channel mean and standard deviation of values scaled to 0-1; applied inside the fold's graph."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """One cross-validation fold. `oof_auc` (K,) is its AUC on the images that it was not trained on."""

    index: int
    architecture: str
    oof_auc: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class CutOff:
    """A rule and the thresholds (K,) that it gave on the out-of-fold scores."""

    rule: str  # "youden", "sensitivity 0.9", "specificity 0.95"
    thresholds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Distribution:
    """How a measure was distributed over photographs like those of the training, which were held out of it.

    Args:
        measure: "score:" and a label for the ensemble's scores, or a field of `fundus_core.quality.Quality`.
        n: how many photographs.
        median: of the measure.
        edges: inner edges between bins, increasing; a value on an edge is in the bin above.
        shares: of the photographs in each bin, one more than there are edges.
    """

    measure: str
    n: int
    median: float
    edges: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class EnsembleSpec:
    """Everything that decides a score. Two servers with the same `digest` give the same answers.

    Args:
        labels: K output names.
        thresholds: K operating points on the averaged probability, fixed from out-of-fold scores.
        cut_offs: what other rules gave on the same scores; the one that was chosen is among them.
        calibrators: K maps to calibrated probabilities, or none.
        training: what photographs like those of the training are like, to tell new ones that differ.
        adaptive: when fewer folds than all are enough for the same decision; None: that was not shown.
        precision: what the folds compute in.
        files: SHA-256 (hex) of every file of the repository that is not rendered from this spec, by its
            path: weights, golden images and their answers.
        provenance: how it was trained, for people; part of the digest like everything else.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    preprocess: PreprocessSpec
    normalise: Normalise
    views: tuple[str, ...]
    folds: tuple[Fold, ...]
    thresholds: tuple[float, ...]
    cut_offs: tuple[CutOff, ...] = ()
    calibrators: tuple[Calibrator, ...] = ()
    training: tuple[Distribution, ...] = ()
    adaptive: Adaptive | None = None
    precision: Precision = "fp32"
    files: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        views_named(self.views)
        if len(self.thresholds) != len(self.labels) or not self.labels:
            raise BundleError(
                f"{len(self.labels)} labels need as many thresholds, got {len(self.thresholds)}."
            )
        wrong = [each.rule for each in self.cut_offs if len(each.thresholds) != len(self.labels)]
        if wrong or len(self.calibrators) not in (0, len(self.labels)):
            raise BundleError(f"Each label needs its own calibrator and cut-off ({', '.join(wrong)}).")
        if [fold.index for fold in self.folds] != list(range(len(self.folds))) or not self.folds:
            raise BundleError(f"Folds must be numbered from 0, got {[fold.index for fold in self.folds]}.")

    @property
    def view_table(self) -> tuple[View, ...]:
        """The test-time views, in the order in which the graph stacks them."""
        return views_named(self.views)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical manifest; it covers weights and golden answers by `files`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def title(self) -> str:
        """Name, version and the start of the digest, for people."""
        return f"{self.name} {self.version} ({self.digest[:12]})"

    def to_json(self) -> str:
        """Return the canonical one-line JSON: sorted keys, no spaces, ASCII."""
        fields = asdict(self)
        if self.adaptive is None:
            del fields["adaptive"]  # a bundle from before there was one keeps its digest
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "EnsembleSpec":
        """Return the spec of a manifest text.

        Raises:
            BundleError: not JSON, or keys and values that do not fit.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise BundleError(f"{MANIFEST} is not JSON ({error}). Export the ensemble again.") from None
        if isinstance(data, dict) and isinstance(data.get("preprocess"), dict):
            data["preprocess"] = FIRST_REVISION | data["preprocess"]
        return build(cls, data, BundleError, MANIFEST)


def read_manifest(repository: Path) -> EnsembleSpec:
    """Return the spec of the model repository in this folder.

    Raises:
        BundleError: the folder holds no readable manifest.
    """
    path = repository / MANIFEST
    try:
        return EnsembleSpec.from_json(path.read_text())
    except (OSError, UnicodeDecodeError):
        if (repository / LIVE).exists():
            hint = "Give a bundle that was deployed there; what you change in it, deploy again."
            raise BundleError(f"'{repository}' is a live repository, not a bundle. {hint}") from None
        hint = "Give a folder made by `fundus-export repository`."
        raise BundleError(f"'{repository}' has no readable {MANIFEST}. {hint}") from None


def write_manifest(spec: EnsembleSpec, repository: Path) -> None:
    """Write manifest.json for people: the same content as `to_json`, indented."""
    text = json.dumps(json.loads(spec.to_json()), indent=2, sort_keys=True)
    (repository / MANIFEST).write_text(text + "\n")
