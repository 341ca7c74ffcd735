"""An evaluation as lines of text."""

from collections.abc import Iterator

from fundus_eval.evaluation import Evaluation, LabelEvaluation
from fundus_eval.intervals import Interval


def evaluation_lines(evaluation: Evaluation) -> Iterator[str]:
    """Lay an evaluation out as aligned names and values: the same on a terminal and in a pipe."""
    pairs = [pair for label in evaluation.labels for pair in _label_pairs(label)]
    if len(evaluation.labels) > 1 and evaluation.auc_macro is not None:
        pairs.append(("mean AUC", f"{evaluation.auc_macro:.3f}"))
    left_out = f"{evaluation.n_failed} failed, {evaluation.n_unlabelled} without a label"
    pairs.append(("files", f"{evaluation.n_files}: {left_out}"))
    pairs.append(("labels", f"{evaluation.n_labels_without_image} without an image"))
    width = max(len(name) for name, _ in pairs) + 2
    return (f"{name:<{width}}{value}" for name, value in pairs)


def _label_pairs(label: LabelEvaluation) -> Iterator[tuple[str, str]]:
    is_part = label.n_patients and label.unit != "patient"
    patients = f" of {label.n_patients} patient{'' if label.n_patients == 1 else 's'}" if is_part else ""
    yield label.label, f"{label.n} {label.unit}s{patients}, {label.n_positive} positive"
    if label.n_patients is None:
        yield "  patients", "not known: every image counts as independent"
    yield "  AUC", str(label.auc or label.auc_missing_reason)
    if label.fold_auc:
        yield "  folds", " ".join(f"{value:.3f}" for value in label.fold_auc)
    if point := label.operating_point:
        yield "  threshold", f"{point.threshold:.4g}"
        yield "  sensitivity", _both_ways(point.sensitivity, point.sensitivity_all, "positive")
        yield "  specificity", _both_ways(point.specificity, point.specificity_all, "negative")
    if label.gradable:
        auc, n = label.gradable.auc or "one class only", label.gradable.n_ungradable
        yield "  gradable", f"{auc} without {n} ungradable"


def _both_ways(scored: Interval | None, every: Interval | None, kind: str) -> str:
    """Write a share of the scored images, and that with failed ones as wrong decisions."""
    beside = f"; {every} with failed files as wrong" if every else ""
    return f"{scored or f'no {kind} image'}{beside}"
