"""What a study says in sentences: its headline numbers, and what makes them doubtful."""

from collections.abc import Iterator

from fundus_eval.intervals import Interval
from fundus_eval.report.formats import count, estimate, limits, number, percent, share_limits
from fundus_eval.shift import SCORE
from fundus_eval.study import Decision, LabelStudy, Shift, Study

FEW = 10  # with fewer units of a class, its figures hang on single ones
_MUCH_UNGRADABLE = 0.05

_MEASURES = {
    "brightness": "brightness",
    "field_px": "size of the lit field (pixels)",
    "roundness": "roundness of the field",
    "saturation": "saturation of the colours",
    "fundus_colour": "share in a fundus's colours",
    "sharpness": "sharpness",
}


def units(label: LabelStudy, n: int) -> str:
    """Write a number of units with their noun."""
    return f"{count(n)} {label.unit}{'' if n == 1 else 's'}"


def rule_words(decision: Decision) -> str:
    """Say how a threshold was fixed."""
    if decision.rule == "given":
        return "given by the user"
    known = {"youden": "by Youden's index", "decision": "in the bundle"}
    how = known.get(decision.rule, f"for a {decision.rule.replace(' ', ' of ')}")
    return f"fixed before the test, {how}"


def measure_words(shift: Shift) -> str:
    """Name what a shift was measured in."""
    if shift.measure.startswith(SCORE):
        return f"score for {shift.measure.removeprefix(SCORE)}"
    return _MEASURES.get(shift.measure, shift.measure)


def headline(label: LabelStudy) -> tuple[str, ...]:
    """Return the main result of one label, a sentence each."""
    of_patients = (
        f" of {count(label.n_patients)} patients" if label.n_patients and label.unit != "patient" else ""
    )
    return (
        f"In {units(label, label.n)}{of_patients}, the ensemble told {label.label} from no {label.label} "
        f"with an AUC of {number(label.auc.value)} (95 % CI {limits(label.auc)}).",
        *(_decision_words(label, decision) for decision in label.decisions[:1]),
        _calibration_words(label),
    )


def _decision_words(label: LabelStudy, decision: Decision) -> str:
    n_positive, n_negative = decision.tp + decision.fn, decision.tn + decision.fp
    sensitivity = _share("sensitivity", decision.sensitivity)
    specificity = _share("specificity", decision.specificity)
    return (
        f"At the threshold of {number(decision.threshold)}, {rule_words(decision)}, it found "
        f"{count(decision.tp)} of {units(label, n_positive)} with {label.label} ({sensitivity}) and cleared "
        f"{count(decision.tn)} of {count(n_negative)} without ({specificity})."
    )


def _share(name: str, interval: Interval | None) -> str:
    return f"{name} {percent(interval.value)}, {share_limits(interval)}" if interval else f"no {name}"


def _calibration_words(label: LabelStudy) -> str:
    error, intercept = percent(label.calibration.ece.value), label.calibration.intercept
    trend = ""
    if intercept and intercept.low > 0:
        trend = ", with a tendency to say too little"
    elif intercept and intercept.high < 0:
        trend = ", with a tendency to say too much"
    return f"Read as probabilities, its scores were off by {error} on average{trend}."


def folds_words(label: LabelStudy) -> str:
    """Say how far the folds agree, over all units and unit by unit."""
    values = [auc.value for auc in label.fold_auc]
    text = f"The folds' AUCs lie between {number(min(values))} and {number(max(values))}."
    spreads = sorted(case.spread for case in label.cases if case.spread is not None)
    if not spreads:
        return text
    half, most = spreads[len(spreads) // 2], spreads[-1 - len(spreads) // 10]
    apart = f"For half of the {label.unit}s the folds' scores are at most {number(half)} apart"
    return f"{text} {apart}, for nine in ten at most {number(most)}."


def doubts(study: Study) -> tuple[str, ...]:
    """Return what makes the numbers doubtful, a few sentences each; empty where nothing is known."""
    return (
        *_missing_scores(study),
        *(text for label in study.labels for text in _few_units(label)),
        *_shifted(study),
        *_ungradable(study),
        *_unknown_patients(study),
    )


def _missing_scores(study: Study) -> Iterator[str]:
    flow, failed = study.flow, sum(study.flow.failed.values())
    if not failed:
        return
    known = flow.n_failed_positive + flow.n_failed_negative
    yield (
        f"{count(failed)} of {count(flow.n_files)} files have no score. Where their label is known "
        f"({count(known)}), the tables of decisions count them both ways: left out, and as wrong decisions."
    )


def _few_units(label: LabelStudy) -> Iterator[str]:
    for n, kind in ((label.n_positive, ""), (label.n - label.n_positive, "no ")):
        if n < FEW:
            yield (
                f"Only {units(label, n)} with {kind}{label.label}: one decision more or less moves "
                "the figures a lot. Rely on the intervals, not on the estimates."
            )


def _shifted(study: Study) -> Iterator[str]:
    names = [measure_words(shift) for shift in study.shift if shift.shifted]
    if names:
        yield (
            f"These images differ from those of the training in: {', '.join(names)}. The thresholds and "
            "probabilities were made for other images and may not fit these."
        )


def _ungradable(study: Study) -> Iterator[str]:
    flow = study.flow
    if flow.n_ungradable > _MUCH_UNGRADABLE * flow.n_evaluated:
        yield (
            f"{count(flow.n_ungradable)} of {count(flow.n_evaluated)} evaluated images are flagged as no "
            "good photograph of a fundus. They are included; the AUC without them stands beside the AUC."
        )


def _unknown_patients(study: Study) -> Iterator[str]:
    if any(label.n_patients is None for label in study.labels):
        yield (
            "The labels name no patients, so all images count as independent. Where a patient has several, "
            "the intervals are too narrow."
        )


def macro_words(study: Study) -> str:
    """Say the mean AUC of several labels."""
    return f"Over {len(study.labels)} labels, the mean AUC is {estimate(study.auc_macro)}."
