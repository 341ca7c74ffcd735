"""What a bundle says about one frame, label by label, as `scores.csv` has it."""

from dataclasses import dataclass

from fundus_core.ensemble import EnsembleSpec
from fundus_core.rows import ScoreRow
from fundus_core.sheet import float32_text


@dataclass(frozen=True, slots=True)
class Answer:
    """The probability of one label and what it is compared with, all 0-1; `calibrated` None without a map."""

    label: str
    probability: float
    threshold: float
    spread: float
    calibrated: float | None

    @property
    def is_positive(self) -> bool:
        """Whether the probability reaches the threshold."""
        return self.probability >= self.threshold


def answers(row: ScoreRow, spec: EnsembleSpec) -> tuple[Answer, ...]:
    """Return the answers (K,) of a scored row; none of a failed one."""
    if row.probability is None or row.spread is None:
        return ()
    return tuple(
        _answer(spec, label, _as_written(probability), _as_written(spread))
        for label, (probability, spread) in enumerate(zip(row.probability, row.spread, strict=True))
    )


def threshold_rule(spec: EnsembleSpec) -> str:
    """Return by which rule the thresholds were chosen, such as "youden"; "" where the bundle doesn't say."""
    return next((each.rule for each in spec.cut_offs if each.thresholds == spec.thresholds), "")


def _answer(spec: EnsembleSpec, label: int, probability: float, spread: float) -> Answer:
    calibrated = _as_written(spec.calibrators[label](probability)) if spec.calibrators else None
    return Answer(spec.labels[label], probability, spec.thresholds[label], spread, calibrated)


def _as_written(number: float) -> float:
    """Return a number as it stands in the table, so that whoever reads either reaches the same decision."""
    return float(float32_text(number))
