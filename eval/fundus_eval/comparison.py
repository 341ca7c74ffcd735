"""Two ensembles on the same images: is one better, or is it chance?"""

from dataclasses import asdict, dataclass
from typing import Any

from fundus_core.errors import LabelsError
from fundus_core.tables import Joined
from fundus_eval.auc import Interval, auc_delong, auc_difference


@dataclass(frozen=True)
class Comparison:
    """The AUCs of two score tables for one label, and their difference (second minus first).

    Args:
        n: images that both have scored and whose label is known; `n_positive` of them have it.
        n_left_out: images that only one of the two has scored.
    """

    label: str
    n: int
    n_positive: int
    n_left_out: int
    first: Interval
    second: Interval
    difference: Interval

    def __str__(self) -> str:
        change = self.difference
        counts = f"{self.n} images, {self.n_positive} positive, {self.n_left_out} left out"
        span = f"{change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
        return f"{self.label}  {self.first} -> {self.second}  difference {span}  {counts}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def compare_aucs(first: Joined, second: Joined) -> tuple[Comparison, ...]:
    """Compare two tables that were joined with the same labels, by DeLong's paired method.

    Raises:
        LabelsError: no image was scored by both.
        OneClassError: they have only positives, or only negatives, of a label.
    """
    row_of = {image_id: row for row, image_id in enumerate(second.image_id)}
    both = [(row, row_of[image_id]) for row, image_id in enumerate(first.image_id) if image_id in row_of]
    if not both:
        raise LabelsError("The two tables have no labelled image in common. Write their ids alike.")
    n_left_out = len(first.image_id) + len(second.image_id) - 2 * len(both)
    return tuple(_compare(first, second, both, n_left_out, label) for label in range(len(first.labels)))


def _compare(
    first: Joined, second: Joined, both: list[tuple[int, int]], n_left_out: int, label: int
) -> Comparison:
    known = [(a, b) for a, b in both if first.truth[a, label] >= 0]
    rows, others = [a for a, _ in known], [b for _, b in known]
    truth = first.truth[rows, label]
    scores = first.probability[rows, label], second.probability[others, label]
    return Comparison(
        label=first.labels[label],
        n=len(known),
        n_positive=int(truth.sum()),
        n_left_out=n_left_out,
        first=auc_delong(truth, scores[0]),
        second=auc_delong(truth, scores[1]),
        difference=auc_difference(truth, *scores),
    )
