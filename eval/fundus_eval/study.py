"""What an evaluation found, complete: the one object that the report, its figures and its JSON are made of.

Letters in shapes: N units, F folds, G points of a curve, B bins.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fundus_eval.intervals import Interval

Unit = Literal["image", "eye", "patient"]
Rule = Literal["mean", "max"]


@dataclass(frozen=True)
class Sample:
    """What one label is evaluated on: N units (images, eyes or patients) with a score and a known truth.

    Args:
        image_id: (N,) of a unit of several images, its first one.
        truth: (N,) 1 positive, 0 negative.
        score: (N,) 0-1.
        fold_score: (N, F); F is 0 where the folds are not known.
        cluster: (N,) units of one number are of one patient, so not independent; None where all are.
        ungradable: (N,) flagged as no good photograph of a fundus.
        columns: (N,) texts of each further column of the labels table, "" where it says nothing.
        n_patients: whose units they are; None where the labels name no patients.
    """

    image_id: tuple[str, ...]
    truth: NDArray[np.int8]
    score: NDArray[np.float64]
    fold_score: NDArray[np.float64]
    cluster: NDArray[np.int64] | None
    ungradable: NDArray[np.bool_]
    columns: dict[str, tuple[str, ...]]
    n_patients: int | None


@dataclass(frozen=True)
class Flow:
    """Images from found to evaluated (STARD 2015, item 19).

    Args:
        failed: files without a score, by reason code.
        n_unlabelled: scored images whose label is not known.
        n_labels_without_image: labels whose image is not among the files.
        n_failed_positive, n_failed_negative: files without a score whose label is known.
        n_evaluated: images with both; `n_units` are what they make (as many, where the unit is the image).
        n_ungradable: of the evaluated images, flagged as no good photograph.
    """

    n_files: int
    failed: dict[str, int]
    n_scored: int
    n_unlabelled: int
    n_labels_without_image: int
    n_failed_positive: int
    n_failed_negative: int
    n_evaluated: int
    n_ungradable: int
    n_units: int


@dataclass(frozen=True)
class Curve:
    """A line through G points, with a pointwise band."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class AtPrevalence:
    """What a decision means where `prevalence` (0-1) of those examined have the disease."""

    prevalence: float
    ppv: Interval | None
    npv: Interval | None


@dataclass(frozen=True)
class Decision:
    """What deciding at one threshold gives; None where the class that a share is about is absent.

    Args:
        rule: how the threshold was fixed: "youden", "sensitivity 0.9", "specificity 0.95", "given".
        sensitivity_all, specificity_all: with every failed unit of a known label counted as a wrong decision;
            None also where there is none.
    """

    rule: str
    threshold: float
    tp: int
    fp: int
    tn: int
    fn: int
    sensitivity: Interval | None
    specificity: Interval | None
    sensitivity_all: Interval | None
    specificity_all: Interval | None
    lr_positive: Interval | None
    lr_negative: Interval | None
    predictive: tuple[AtPrevalence, ...]


@dataclass(frozen=True)
class ReliabilityBin:
    """Units of similar probability: their mean probability, and the share that is positive."""

    n: int
    predicted: float
    observed: Interval


@dataclass(frozen=True)
class Calibration:
    """How well probabilities say how often (Van Calster et al., J Clin Epidemiol 2016).

    Args:
        ece: expected calibration error over the bins, which few units raise; `ece_by_chance`: its mean if the
            probabilities were right.
        intercept: calibration in the large, with the slope fixed at 1; `slope`: of the logistic
            recalibration. None where no finite value fits, or a probability is 0 or 1.
        brier: = reliability - resolution + uncertainty + what the bins blur (Murphy 1973).
    """

    bins: tuple[ReliabilityBin, ...]  # (B,)
    ece: Interval
    ece_by_chance: float
    brier: Interval
    reliability: float
    resolution: float
    uncertainty: float
    intercept: Interval | None
    slope: Interval | None


@dataclass(frozen=True)
class PartialAuc:
    """The area where specificity is at least `least_specificity`.

    Args:
        raw: the area itself, 0 to 1 - least_specificity.
        corrected: McClish's (Med. Decis. Making 1989): 0.5 chance, 1 perfect.
    """

    least_specificity: float
    raw: Interval
    corrected: Interval


@dataclass(frozen=True)
class SensitivityAt:
    """The height of the ROC curve at one specificity, which no threshold was fixed for."""

    specificity: float
    sensitivity: Interval


@dataclass(frozen=True)
class NetBenefit:
    """A decision curve (Vickers and Elkin, Med. Decis. Making 2006): net benefit per unit at G thresholds."""

    threshold: tuple[float, ...]
    model: tuple[float, ...]
    treat_all: tuple[float, ...]


@dataclass(frozen=True)
class Histogram:
    """How many positive and negative units have a score in each of B bins between B + 1 edges."""

    edges: tuple[float, ...]
    positive: tuple[int, ...]
    negative: tuple[int, ...]


@dataclass(frozen=True)
class Subgroup:
    """The units whose `column` says `value`; None where a class is absent."""

    column: str
    value: str
    n: int
    n_positive: int
    auc: Interval | None
    sensitivity: Interval | None
    specificity: Interval | None


@dataclass(frozen=True)
class Case:
    """One unit of the table behind the report; `error` is |truth - score|."""

    image_id: str
    truth: int
    score: float
    spread: float | None  # highest minus lowest fold
    ungradable: bool

    @property
    def error(self) -> float:
        """How wrong the score is (0-1)."""
        return abs(self.truth - self.score)


@dataclass(frozen=True)
class LabelStudy:
    """Everything about one label.

    Args:
        n_patients: None where the labels name no patients.
        auc_method: how `auc` got its interval, in words.
        auc_gradable: without ungradable units; None where none is flagged, or a class would be absent.
        calibrated: the same after the bundle's calibrator; None where it has none.
        decisions: at the bundle's cut-offs; the first is the one that `decision` in the scores used.
        cases: every unit, the most wrong first.
    """

    label: str
    unit: Unit
    rule: Rule
    n: int
    n_positive: int
    n_patients: int | None
    auc: Interval
    auc_method: str
    auc_bootstrap: Interval
    auc_gradable: Interval | None
    fold_auc: tuple[Interval, ...]  # (F,)
    average_precision: Interval
    partial_auc: PartialAuc
    sensitivity_at: SensitivityAt
    decisions: tuple[Decision, ...]
    roc: Curve  # 1 - specificity -> sensitivity
    precision_recall: Curve  # recall -> precision
    calibration: Calibration
    calibrated: Calibration | None
    net_benefit: NetBenefit
    histogram: Histogram
    subgroups: tuple[Subgroup, ...]
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Shift:
    """How far new images are from those of the training, in one measure.

    Args:
        measure: "score:glaucoma", or a field of `fundus_core.quality.Quality`.
        psi: population stability index; `limit`: what it may be, given how few images there are.
        training_median, median: of the measure.
    """

    measure: str
    psi: float
    limit: float
    training_median: float
    median: float

    @property
    def shifted(self) -> bool:
        """Whether the difference is more than chance and more than small."""
        return self.psi > self.limit


@dataclass(frozen=True)
class Study:
    """An evaluation of one table of scores against one table of labels.

    Args:
        flow: of the first label's images.
        labels: (K,).
        auc_macro: the labels' mean AUC, with a bootstrap interval; None for one label.
        shift: one per measure that the bundle knows of its training images; empty where it is not known.
        made: how it was made, for people: names of files with their SHA-256, options, versions, bundle, time.
        notes: sentences about what could not be found out.
    """

    flow: Flow
    labels: tuple[LabelStudy, ...]
    auc_macro: Interval | None
    shift: tuple[Shift, ...]
    made: dict[str, Any]
    notes: tuple[str, ...] = ()
