"""One label's evaluation, complete: every measure of the report from one set of resamples."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fundus_eval.auc import Cluster, auc_and_method, auc_delong, auc_or_none
from fundus_eval.bootstrap import percentile_interval, percentile_limits, resample_counts
from fundus_eval.calibration import Reliability, brier
from fundus_eval.intervals import Interval
from fundus_eval.logistic import recalibrate
from fundus_eval.operating import Confusion, confusion, net_benefit
from fundus_eval.ranking import Ranking, mcclish
from fundus_eval.study import (
    AtPrevalence,
    Calibration,
    Case,
    Curve,
    Decision,
    Histogram,
    LabelStudy,
    PartialAuc,
    Rule,
    Sample,
    SensitivityAt,
    Unit,
)
from fundus_eval.subgroups import subgroups

Floats = NDArray[np.float64]

LEAST_SPECIFICITY = 0.9  # of the partial AUC
SPECIFICITY = 0.95  # at which the sensitivity is read off the curve
_MAX_FPR = 1 - LEAST_SPECIFICITY
_GRID = np.linspace(0, 1, 101)  # of 1 - specificity, and of recall
_THRESHOLDS = np.arange(1, 100) / 100  # of the decision curve
_EDGES = np.linspace(0, 1, 21)  # of the histogram


class _Measures:
    """What is measured once, and again on each resample; the names are keys of `value` and `draws`.

    Args:
        sample: N units.
        probabilities: each (N,), to be looked at for their calibration.
        resamples, seed: as in `resample_counts`.
    """

    def __init__(self, sample: Sample, probabilities: Sequence[Floats], resamples: int, seed: int) -> None:
        self._truth, self._probabilities = sample.truth, probabilities
        self._ranking = Ranking(sample.truth, sample.score)
        self.reliability = [Reliability(sample.truth, each) for each in probabilities]
        blocks = resample_counts([sample.truth], [_clusters(sample)], resamples, seed)
        drawn = [self._measured(weights) for (weights,) in blocks]
        self._value = self._measured(None)
        self._draws = {name: np.concatenate([block[name] for block in drawn]) for name in self._value}

    def interval(self, name: str) -> Interval:
        """Return a measure with its percentile interval."""
        return percentile_interval(self._value[name], self._draws[name])

    def curve(self, name: str) -> Curve:
        """Return a curve with its pointwise band."""
        limits = percentile_limits(self._value[name], self._draws[name])
        return Curve(*(tuple(line.tolist()) for line in (_GRID, self._value[name], *limits)))

    def _measured(self, weights: Floats | None) -> dict[str, Floats]:
        roc = self._ranking.roc(weights)
        calibration = {
            f"{name} {number}": np.asarray(value)
            for number, (bins, each) in enumerate(zip(self.reliability, self._probabilities, strict=True))
            for name, value in (("ece", bins.ece(weights)), ("brier", brier(self._truth, each, weights)))
        }
        return calibration | {
            "auc": roc.auc(),
            "average precision": roc.average_precision(),
            "partial auc": roc.partial_auc(_MAX_FPR),
            "sensitivity": roc.sensitivity_at(np.array([1 - SPECIFICITY]))[..., 0],
            "roc": roc.sensitivity_at(_GRID),
            "precision recall": roc.precision_at(_GRID),
        }


def study_label(
    sample: Sample,
    label: str,
    unit: Unit,
    rule: Rule,
    cut_offs: Sequence[tuple[str, float]],
    n_failed: tuple[int, int],
    calibrator: Callable[[Floats], Floats] | None,
    prevalences: Sequence[float],
    subgroup_columns: Sequence[str],
    resamples: int,
    seed: int,
) -> LabelStudy:
    """Measure everything about one label.

    Args:
        sample: N units of both classes.
        label: its name.
        unit: what a row of the sample is.
        rule: how several images became one.
        cut_offs: how each was fixed, and the threshold; the first one is that of the subgroups.
        n_failed: units without a score that are positive, and negative.
        calibrator: from scores (N,) to probabilities (N,), which the decision curve is then of; None where
            there is none.
        prevalences: above 0 and below 1, at which decisions are judged.
        subgroup_columns: names of `sample.columns`.
        resamples: how many the bootstrap draws.
        seed: the same one draws the same resamples.

    Raises:
        OneClassError: the units are all positive, all negative, or none is there.
        UsageError: a subgroup column cannot be used.
    """
    auc, auc_method = auc_and_method(sample.truth, sample.score, cluster=sample.cluster)
    probabilities = [sample.score] if calibrator is None else [sample.score, calibrator(sample.score)]
    measures = _Measures(sample, probabilities, resamples, seed)
    calibrations = [
        _calibration(sample, each, number, measures, seed) for number, each in enumerate(probabilities)
    ]
    return LabelStudy(
        label=label,
        unit=unit,
        rule=rule,
        n=len(sample.truth),
        n_positive=int(sample.truth.sum()),
        n_patients=sample.n_patients,
        auc=auc,
        auc_method=auc_method,
        auc_bootstrap=measures.interval("auc"),
        auc_gradable=_auc_gradable(sample),
        fold_auc=tuple(
            auc_delong(sample.truth, fold, cluster=sample.cluster) for fold in sample.fold_score.T
        ),
        average_precision=measures.interval("average precision"),
        partial_auc=_partial_auc(measures.interval("partial auc")),
        sensitivity_at=SensitivityAt(SPECIFICITY, measures.interval("sensitivity")),
        decisions=tuple(_decision(sample, *each, n_failed, prevalences) for each in cut_offs),
        roc=measures.curve("roc"),
        precision_recall=measures.curve("precision recall"),
        calibration=calibrations[0],
        calibrated=calibrations[1] if calibrator else None,
        net_benefit=net_benefit(sample.truth, probabilities[-1], _THRESHOLDS),
        histogram=_histogram(sample),
        subgroups=subgroups(sample, subgroup_columns, cut_offs[0][1] if cut_offs else None),
        cases=_cases(sample),
    )


def auc_macro(samples: Sequence[Sample], resamples: int, seed: int) -> Interval:
    """Return the mean AUC of several labels, with a bootstrap interval of shared resamples.

    Args:
        samples: one of each label; a patient's number is the same in all. Units of one patient are drawn
            together.
        resamples: how many the bootstrap draws.
        seed: the same one draws the same resamples.
    """
    rankings = [Ranking(sample.truth, sample.score) for sample in samples]
    blocks = resample_counts([sample.truth for sample in samples], _shared_clusters(samples), resamples, seed)
    drawn = [
        np.mean(
            [ranking.roc(weights).auc() for ranking, weights in zip(rankings, block, strict=True)], axis=0
        )
        for block in blocks
    ]
    value = np.mean([ranking.roc().auc() for ranking in rankings])
    return percentile_interval(np.asarray(value), np.concatenate(drawn))


def _clusters(sample: Sample) -> Cluster:
    return np.arange(len(sample.truth)) if sample.cluster is None else sample.cluster


def _shared_clusters(samples: Sequence[Sample]) -> list[Cluster]:
    """Number what is drawn together in all samples: patients, else images that no sample knows one of."""
    patient = {
        name: (cluster, "")
        for sample in samples
        if sample.cluster is not None
        for name, cluster in zip(sample.image_id, sample.cluster.tolist(), strict=True)
    }
    keys = [[patient.get(name, (-1, name)) for name in sample.image_id] for sample in samples]
    number = {key: i for i, key in enumerate({key: None for own in keys for key in own})}
    return [np.array([number[key] for key in own]) for own in keys]


def _auc_gradable(sample: Sample) -> Interval | None:
    if not sample.ungradable.any():
        return None
    kept = ~sample.ungradable
    cluster = None if sample.cluster is None else sample.cluster[kept]
    return auc_or_none(sample.truth[kept], sample.score[kept], cluster)


def _partial_auc(raw: Interval) -> PartialAuc:
    values = mcclish(np.array([raw.value, raw.low, raw.high]), _MAX_FPR).tolist()
    return PartialAuc(LEAST_SPECIFICITY, raw, Interval(*values))


def _calibration(
    sample: Sample, probability: Floats, number: int, measures: _Measures, seed: int
) -> Calibration:
    bins, fit = measures.reliability[number], recalibrate(sample.truth, probability, sample.cluster)
    return Calibration(
        bins.bins(sample.cluster),
        measures.interval(f"ece {number}"),
        bins.ece_by_chance(seed),
        measures.interval(f"brier {number}"),
        *bins.brier_parts(),
        intercept=fit.intercept,
        slope=fit.slope,
    )


def _decision(
    sample: Sample, rule: str, threshold: float, n_failed: tuple[int, int], prevalences: Sequence[float]
) -> Decision:
    counts = confusion(sample.truth, sample.score, threshold, sample.cluster)
    all_files = counts.with_failures(*n_failed)
    return Decision(
        rule=rule,
        threshold=threshold,
        tp=counts.tp,
        fp=counts.fp,
        tn=counts.tn,
        fn=counts.fn,
        sensitivity=counts.sensitivity,
        specificity=counts.specificity,
        sensitivity_all=all_files.sensitivity if n_failed[0] else None,
        specificity_all=all_files.specificity if n_failed[1] else None,
        lr_positive=counts.lr_positive,
        lr_negative=counts.lr_negative,
        predictive=tuple(_at_prevalence(counts, each) for each in prevalences),
    )


def _at_prevalence(counts: Confusion, prevalence: float) -> AtPrevalence:
    return AtPrevalence(prevalence, counts.ppv(prevalence), counts.npv(prevalence))


def _histogram(sample: Sample) -> Histogram:
    of_class = (np.histogram(sample.score[sample.truth == value], _EDGES)[0] for value in (1, 0))
    return Histogram(*(tuple(line.tolist()) for line in (_EDGES, *of_class)))


def _cases(sample: Sample) -> tuple[Case, ...]:
    order = np.argsort(-np.abs(sample.truth - sample.score), kind="stable")
    folds = sample.fold_score
    spread = np.ptp(folds, axis=1).tolist() if folds.shape[1] else [None] * len(folds)
    truth, score, ungradable = (each.tolist() for each in (sample.truth, sample.score, sample.ungradable))
    return tuple(
        Case(sample.image_id[i], truth[i], score[i], spread[i], ungradable[i]) for i in order.tolist()
    )
