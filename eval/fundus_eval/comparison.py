"""Two ensembles, or one in two precisions, on the same images: is one better, or is it chance?"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import hypot, log
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import LabelsError
from fundus_core.tables import Joined, some
from fundus_eval.auc import Cluster, Truth, auc_delong, delong_test
from fundus_eval.intervals import Interval, design_effect, normal_quantile, two_sided_p
from fundus_eval.study import Sample
from fundus_eval.units import sample_of


@dataclass(frozen=True)
class Moves:
    """The decisions of both about images of one class: how many were right, and whether that changed.

    Args:
        both_right, only_first_right, only_second_right, both_wrong: counts of images.
        change: of the share that is right (sensitivity or specificity), second minus first, with the
            adjusted paired interval of Bonett and Price (J. Educ. Behav. Stat. 2012).
        p_value: of `test`, two-sided: McNemar's exact one (Psychometrika 1947), or where patients are known
            to have several images that of the interval, which allows for them.
    """

    both_right: int
    only_first_right: int
    only_second_right: int
    both_wrong: int
    change: Interval
    p_value: float
    test: Literal["McNemar", "by patient"]


@dataclass(frozen=True)
class Reclassification:
    """What deciding by the second score changes.

    Args:
        thresholds: of the first and of the second score.
        positive: of images with the disease: `change` is that of the sensitivity.
        negative: of images without it: `change` is that of the specificity.
        net: net reclassification improvement, the sum of both changes (Pencina et al., Stat. Med. 2008), with
            limits from those of its parts (Donner and Zou, Stat. Methods Med. Res. 2012).
    """

    thresholds: tuple[float, float]
    positive: Moves
    negative: Moves
    net: Interval


@dataclass(frozen=True)
class Comparison:
    """The AUCs of two score tables for one label, and their difference (second minus first).

    Args:
        n: images that both have scored and whose label is known; `n_positive` of them have it.
        n_left_out: images that only one of the two has scored.
        n_patients: None where no patient is known to have several images; intervals and `p_value` allow for
            them.
        p_value: of the difference, two-sided.
        decisions: None without thresholds.
    """

    label: str
    n: int
    n_positive: int
    n_left_out: int
    n_patients: int | None
    first: Interval
    second: Interval
    difference: Interval
    p_value: float
    decisions: Reclassification | None

    def __str__(self) -> str:
        counts = f"{self.n} images, {self.n_positive} positive, {self.n_left_out} left out"
        change = f"difference {_signed(self.difference)}  p {self.p_value:.3g}"
        return f"{self.label}  {self.first} -> {self.second}  {change}  {counts}"

    def lines(self) -> Iterator[str]:
        """Lay the comparison out: the AUCs, then what happened to the decisions."""
        yield str(self)
        if self.decisions:
            first, second = self.decisions.thresholds
            yield f"  thresholds   {first:.4f} -> {second:.4f}"
            yield f"  sensitivity  {_moved(self.decisions.positive)}"
            yield f"  specificity  {_moved(self.decisions.negative)}"
            yield f"  net change   {_signed(self.decisions.net)}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def compare_aucs(
    first: Joined, second: Joined, thresholds: Sequence[tuple[float, float]] | None = None
) -> tuple[Comparison, ...]:
    """Compare two tables that were joined with the same labels, by DeLong's paired method.

    Args:
        first: of one ensemble.
        second: of the other.
        thresholds: of each label (K,), those of the first and of the second score; None leaves decisions out.

    Raises:
        LabelsError: no image was scored by both.
        OneClassError: they have only positives, or only negatives, of a label.
    """
    both = set(first.image_id) & set(second.image_id)
    if not both:
        said = f"the first has {some(first.image_id)}; the second has {some(second.image_id)}"
        raise LabelsError(f"The two tables have no labelled image in common: {said}. Write their ids alike.")
    n_left_out = len(first.image_id) + len(second.image_id) - 2 * len(both)
    of_label = [None] * len(first.labels) if thresholds is None else thresholds
    return tuple(
        _compare(label, sample_of(first, k), sample_of(second, k), cuts, n_left_out)
        for k, (label, cuts) in enumerate(zip(first.labels, of_label, strict=True))
    )


def reclassify(
    truth: Truth,
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    thresholds: tuple[float, float],
    cluster: Cluster | None = None,
) -> Reclassification:
    """Say which decisions changed, split by the truth.

    Args:
        truth: (N,) 1 positive, 0 negative, both there.
        first: (N,) whether it decided positive.
        second: (N,) likewise.
        thresholds: that they decided by.
        cluster: (N,) images of one number are of one patient; None where all are independent.
    """
    positive, negative = (
        _moves(
            first[truth == value] == value,
            second[truth == value] == value,
            None if cluster is None else cluster[truth == value],
        )
        for value in (1, 0)
    )
    one, other = positive.change, negative.change
    net = Interval(
        one.value + other.value,
        one.value + other.value - hypot(one.value - one.low, other.value - other.low),
        one.value + other.value + hypot(one.high - one.value, other.high - other.value),
    )
    return Reclassification(thresholds, positive, negative, net)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of as many one-sided disagreements (McNemar, Psychometrika 1947)."""
    n, fewer = only_first + only_second, min(only_first, only_second)
    k = np.arange(1, fewer + 1)
    # logarithms of binomial coefficients over 2 ** n: the numbers themselves overflow
    terms = np.append(0, np.cumsum(np.log((n - k + 1) / k))) - n * log(2)
    return min(1.0, 2 * float(np.exp(terms).sum()))


def _compare(
    label: str, first: Sample, second: Sample, cuts: tuple[float, float] | None, n_left_out: int
) -> Comparison:
    row_of = {image_id: row for row, image_id in enumerate(second.image_id)}
    rows = [row for row, image_id in enumerate(first.image_id) if image_id in row_of]
    scores = first.score[rows], second.score[[row_of[first.image_id[row]] for row in rows]]
    truth, cluster = first.truth[rows], None if first.cluster is None else first.cluster[rows]
    test = delong_test(truth, *scores, cluster=cluster)
    decisions = None
    if cuts is not None:
        decisions = reclassify(truth, scores[0] >= cuts[0], scores[1] >= cuts[1], cuts, cluster)
    return Comparison(
        label=label,
        n=len(rows),
        n_positive=int(truth.sum()),
        n_left_out=n_left_out,
        n_patients=None if cluster is None else len(np.unique(cluster)),
        first=auc_delong(truth, scores[0], cluster=cluster),
        second=auc_delong(truth, scores[1], cluster=cluster),
        difference=test.difference,
        p_value=test.p_value,
        decisions=decisions,
    )


def _moves(first: NDArray[np.bool_], second: NDArray[np.bool_], cluster: Cluster | None) -> Moves:
    """Count what both did right (N,) of one class."""
    lost, gained = int((first & ~second).sum()), int((~first & second).sum())
    widened = design_effect(second.astype(np.float64) - first, cluster)
    change, p_value = _paired_change(lost, gained, len(first), widened)
    return Moves(
        both_right=int((first & second).sum()),
        only_first_right=lost,
        only_second_right=gained,
        both_wrong=int((~first & ~second).sum()),
        change=change,
        p_value=mcnemar(lost, gained) if cluster is None else p_value,
        test="McNemar" if cluster is None else "by patient",
    )


def _paired_change(
    lost: int, gained: int, n: int, design_effect: float, confidence: float = 0.95
) -> tuple[Interval, float]:
    """Return the change of a share of n pairs: as if in two pairs more there was one change each way.

    Beside it the two-sided p-value of the same estimate and standard error.
    """
    effective, value = n / design_effect, (gained - lost) / n
    up, down = ((count / design_effect + 1) / (effective + 2) for count in (gained, lost))
    error = ((up + down - (up - down) ** 2) / (effective + 2)) ** 0.5
    margin = normal_quantile(confidence) * error
    low, high = max(-1.0, up - down - margin), min(1.0, up - down + margin)
    return Interval(value, min(value, low), max(value, high)), two_sided_p((up - down) / error)


def _moved(moves: Moves) -> str:
    counts = f"{moves.only_second_right} gained, {moves.only_first_right} lost"
    return f"{_signed(moves.change)}  p {moves.p_value:.3g} ({moves.test})  {counts}"


def _signed(change: Interval) -> str:
    return f"{change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
