import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from fundus_core.errors import UsageError
from fundus_eval.auc import OneClassError, auc_delong
from fundus_eval.calibration import fit_isotonic
from fundus_eval.intervals import Interval
from fundus_eval.operating import confusion
from fundus_eval.study import LabelStudy, Sample
from fundus_eval.studying import auc_macro, study_label

RESAMPLES = 300


def sample(n: int = 400, per_patient: int = 2, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    cluster = np.arange(n) // per_patient
    truth = (rng.random(n) < 0.3)[cluster].astype(np.int8)
    logit = 1.2 * truth + rng.standard_normal(n)[cluster] + 0.5 * rng.standard_normal(n)
    folds = 1 / (1 + np.exp(-(logit[:, None] + 0.3 * rng.standard_normal((n, 3)))))
    return Sample(
        image_id=tuple(f"{i}.jpg" for i in range(n)),
        truth=truth,
        score=folds.mean(axis=1),
        fold_score=folds,
        cluster=cluster if per_patient > 1 else None,
        ungradable=rng.random(n) < 0.05,
        columns={"age": tuple(str(age) for age in rng.integers(40, 80, n))},
        n_patients=n // per_patient,
    )


def study(of: Sample, **changes: Any) -> LabelStudy:
    options: dict[str, Any] = {
        "label": "glaucoma",
        "unit": "image",
        "rule": "mean",
        "cut_offs": [("youden", 0.5), ("sensitivity 0.9", 0.3)],
        "n_failed": (2, 3),
        "calibrator": None,
        "prevalences": (0.02, 0.1),
        "subgroup_columns": ("age",),
        "resamples": RESAMPLES,
        "seed": 0,
    }
    return study_label(of, **(options | changes))


def numbers(value: Any) -> list[float]:
    """Every number in an object, however deep."""
    if dataclasses.is_dataclass(value):
        return [
            number for field in dataclasses.fields(value) for number in numbers(getattr(value, field.name))
        ]
    if isinstance(value, tuple):
        return [number for each in value for number in numbers(each)]
    return [float(value)] if isinstance(value, int | float) else []


def test_measures_are_those_of_sklearn_and_of_their_own_functions() -> None:
    of = sample()
    found = study(of)
    assert found.auc == auc_delong(of.truth, of.score, cluster=of.cluster)
    assert found.auc_bootstrap.value == pytest.approx(roc_auc_score(of.truth, of.score))
    assert found.average_precision.value == pytest.approx(average_precision_score(of.truth, of.score))
    partial = roc_auc_score(of.truth, of.score, max_fpr=0.1)
    assert found.partial_auc.corrected.value == pytest.approx(partial, abs=1e-8)
    assert found.sensitivity_at.sensitivity.value == pytest.approx(found.roc.y[found.roc.x.index(0.05)])
    good = ~of.ungradable
    assert of.cluster is not None
    assert found.auc_gradable == auc_delong(of.truth[good], of.score[good], cluster=of.cluster[good])
    assert found.fold_auc[1] == auc_delong(of.truth, of.fold_score[:, 1], cluster=of.cluster)
    assert (found.n, found.n_positive, found.n_patients) == (400, int(of.truth.sum()), 200)
    assert "Obuchowski" in found.auc_method
    assert sum(group.n for group in found.subgroups) == 400
    assert sum(found.histogram.positive) == found.n_positive
    assert sum(found.histogram.negative) == found.n - found.n_positive


def test_every_number_is_finite_and_every_interval_holds_its_value() -> None:
    found = study(sample(), calibrator=np.sqrt)
    assert all(map(math.isfinite, numbers(found)))
    for curve in (found.roc, found.precision_recall):
        assert all(low <= y <= high for low, y, high in zip(curve.low, curve.y, curve.high, strict=True))
    intervals = [found.auc_bootstrap, found.average_precision, found.calibration.ece, found.calibration.brier]
    assert all(0 <= each.low < each.value < each.high <= 1 for each in intervals)


def test_decisions_are_those_of_the_cut_offs_with_and_without_failures() -> None:
    of = sample()
    first, second = study(of).decisions
    assert (first.rule, first.threshold) == ("youden", 0.5)
    assert (second.rule, second.threshold) == ("sensitivity 0.9", 0.3)
    counts = confusion(of.truth, of.score, 0.5, of.cluster)
    assert (first.tp, first.fp, first.tn, first.fn) == (counts.tp, counts.fp, counts.tn, counts.fn)
    assert first.sensitivity == counts.sensitivity
    assert first.sensitivity_all is not None
    assert first.specificity_all is not None
    assert first.sensitivity_all.value == pytest.approx(counts.tp / (counts.tp + counts.fn + 2))
    assert first.specificity_all.value == pytest.approx(counts.tn / (counts.tn + counts.fp + 3))
    assert [each.prevalence for each in first.predictive] == [0.02, 0.1]
    assert first.predictive[1].ppv == counts.ppv(0.1)
    assert study(of).subgroups[0].sensitivity is not None
    without = study(of, cut_offs=[])
    assert without.decisions == ()
    assert without.subgroups[0].sensitivity is None


def test_patients_widen_the_bootstrap() -> None:
    of = sample(per_patient=4)
    alone = dataclasses.replace(of, cluster=None)
    tied = dataclasses.replace(of, score=np.full(400, 0.5))
    assert width(study(of).auc_bootstrap) > 1.15 * width(study(alone).auc_bootstrap)
    assert "DeLong" in study(alone).auc_method
    assert "Markov" in study(tied).auc_method


def width(interval: Interval) -> float:
    return interval.high - interval.low


def test_a_calibrator_is_measured_beside_the_scores() -> None:
    of, other = sample(), sample(seed=1)
    knots = fit_isotonic(other.truth, other.score**3)

    def calibrate(score: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(score**3, *knots)

    distorted = dataclasses.replace(of, score=of.score**3)
    found = study(of, calibrator=calibrate)
    assert found.calibrated is not None
    assert found.calibrated.brier.value < study(distorted).calibration.brier.value
    assert found.calibration == study(of).calibration
    assert found.net_benefit != study(of).net_benefit


def test_a_seed_gives_the_same_study() -> None:
    assert study(sample()) == study(sample())
    assert study(sample()).auc_bootstrap != study(sample(), seed=1).auc_bootstrap


def test_cases_are_all_units_the_most_wrong_first() -> None:
    of = sample()
    cases = study(dataclasses.replace(of, fold_score=np.empty((400, 0)))).cases
    assert len(cases) == 400
    assert [case.error for case in cases] == sorted((case.error for case in cases), reverse=True)
    assert cases[0].spread is None
    (case,) = [case for case in study(of).cases if case.image_id == "7.jpg"]
    assert (case.truth, case.score, case.ungradable) == (of.truth[7], of.score[7], of.ungradable[7])
    assert case.spread == pytest.approx(np.ptp(of.fold_score[7]))


def test_perfect_separation_is_said_and_has_no_slope() -> None:
    of = sample()
    perfect = study(dataclasses.replace(of, score=0.1 + 0.8 * of.truth))
    assert perfect.auc.value == 1 > perfect.auc.low
    assert "perfectly separated" in perfect.auc_method
    assert perfect.calibration.slope is None
    assert all(map(math.isfinite, numbers(dataclasses.replace(perfect, decisions=()))))
    assert [decision.lr_positive.value for decision in perfect.decisions] == [math.inf, math.inf]


def test_few_units_still_make_a_study() -> None:
    of = Sample(
        *(("a", "b", "c"), np.array([1, 0, 0], np.int8), np.array([0.0, 1.0, 0.0])),
        *(np.empty((3, 0)), np.array([0, 0, 1]), np.zeros(3, bool), {}, 2),
    )
    found = study(of, subgroup_columns=())
    assert all(map(math.isfinite, numbers(found)))
    assert found.auc.low < 0.1 < found.auc.high


def test_one_class_and_a_missing_column_are_sentences() -> None:
    of = sample()
    with pytest.raises(OneClassError, match="are negative"):
        study(dataclasses.replace(of, truth=np.zeros(400, np.int8)))
    with pytest.raises(UsageError, match="no column sex"):
        study(of, subgroup_columns=("sex",))


def test_the_macro_auc_draws_a_patient_for_all_labels_at_once() -> None:
    """Two labels of one score vary together, so their mean varies as one does."""
    of = sample()
    # the images of the last sample are known to be of patients by the one beside it
    unnamed = dataclasses.replace(of, cluster=None)
    one, two, three = (auc_macro(samples, RESAMPLES, 0) for samples in ([of], [of, of], [of, unnamed]))
    expected = study(of).auc_bootstrap  # of the same patients
    assert (one.low, one.value, one.high) == pytest.approx((expected.low, expected.value, expected.high))
    assert (one.low, one.value, one.high) == pytest.approx((two.low, two.value, two.high))
    assert (one.low, one.value, one.high) == pytest.approx((three.low, three.value, three.high))


def test_the_macro_auc_is_the_mean_of_labels_that_are_known_of_other_images() -> None:
    of, other = sample(), sample(seed=1)
    some = dataclasses.replace(
        other, image_id=other.image_id[::3], truth=other.truth[::3], score=other.score[::3], cluster=None
    )
    mean = auc_macro([of, some], RESAMPLES, 0)
    expected = (roc_auc_score(of.truth, of.score) + roc_auc_score(some.truth, some.score)) / 2
    assert mean.value == pytest.approx(expected)
    assert mean.low < mean.value < mean.high
