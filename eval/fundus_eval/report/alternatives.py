"""What each figure shows, in words with its numbers: its text alternative (WCAG 2.2, 1.1.1)."""

from fundus_eval.report.flowchart import flow_steps
from fundus_eval.report.formats import count, estimate, number
from fundus_eval.study import Calibration, Curve, Decision, Flow, LabelStudy


def roc(label: LabelStudy) -> str:
    """Describe the ROC curve."""
    least = label.partial_auc.least_specificity
    return (
        f"ROC curve of {label.label}: AUC {estimate(label.auc)}. Where specificity is at least {least:g}, "
        f"the area is {estimate(label.partial_auc.raw)}. {_at_thresholds(label.decisions)}"
    )


def precision_recall(label: LabelStudy) -> str:
    """Describe the precision-recall curve."""
    curve = label.precision_recall
    return (
        f"Precision over recall of {label.label}: average precision {estimate(label.average_precision)}; "
        f"chance is {number(label.n_positive / label.n)}. {_points(curve, 'At recall', 'precision')}"
    )


def calibration(label: LabelStudy) -> str:
    """Describe the reliability diagram."""
    text = f"Reliability of {label.label}, as scored: {_bins(label.calibration)}"
    return f"{text} After the calibrator: {_bins(label.calibrated)}" if label.calibrated else text


def histogram(label: LabelStudy) -> str:
    """Describe the two histograms."""
    bins = label.histogram
    rows = zip(bins.edges, bins.edges[1:], bins.positive, bins.negative, strict=False)
    texts = [f"{number(low, 2)} to {number(high, 2)}: {p} and {n}" for low, high, p, n in rows if p or n]
    return f"Units by score, with {label.label} and without: {'; '.join(texts)}."


def decision_curve(label: LabelStudy) -> str:
    """Describe the decision curve at ten thresholds."""
    benefit = label.net_benefit
    rows = list(zip(benefit.threshold, benefit.model, benefit.treat_all, strict=True))
    texts = [f"{number(t, 2)}: {number(m)} and {number(a)}" for t, m, a in rows[:: max(1, len(rows) // 10)]]
    return f"Net benefit by threshold, of the score and of calling all positive: {'; '.join(texts)}."


def subgroups(label: LabelStudy) -> str:
    """Describe the forest plot."""
    texts = [f"{group.column} {group.value}: {estimate(group.auc)}" for group in label.subgroups]
    return f"AUC of {label.label} by subgroup; all: {estimate(label.auc)}; {'; '.join(texts)}."


def folds(label: LabelStudy) -> str:
    """Describe the folds' AUCs."""
    texts = [f"fold {index}: {estimate(auc)}" for index, auc in enumerate(label.fold_auc)]
    return f"AUC of {label.label}, ensemble: {estimate(label.auc)}; {'; '.join(texts)}."


def flow(counts: Flow, label: LabelStudy) -> str:
    """Describe the flow of images."""
    texts = [text.strip("· ") for step in flow_steps(counts, label) for text in (*step.stays, *step.leaves)]
    return f"Flow of images. {'; '.join(texts)}."


def _at_thresholds(decisions: tuple[Decision, ...]) -> str:
    return " ".join(
        f"Threshold {number(decision.threshold)}: sensitivity {estimate(decision.sensitivity)}, "
        f"specificity {estimate(decision.specificity)}."
        for decision in decisions
    )


def _points(curve: Curve, x_name: str, y_name: str) -> str:
    points = list(zip(curve.x, curve.y, strict=True))
    texts = [f"{number(x, 2)} {number(y)}" for x, y in points[:: max(1, len(points) // 5)]]
    return f"{x_name}, {y_name}: {'; '.join(texts)}."


def _bins(of: Calibration) -> str:
    texts = [
        f"{number(each.predicted)} said, {estimate(each.observed)} seen (n {count(each.n)})"
        for each in of.bins
    ]
    return f"{'; '.join(texts)}. Expected calibration error {estimate(of.ece)}."
