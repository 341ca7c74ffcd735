"""What a study says in sentences: its headline numbers, and what makes them doubtful."""

from collections.abc import Iterator

from fundus_eval.intervals import Interval
from fundus_eval.report.formats import count, estimate, limits, number, percent, share_limits
from fundus_eval.shift import SCORE
from fundus_eval.study import Decision, LabelStudy, Shift, Study

FEW = 10  # with fewer units of a class, its figures hang on single ones
FEW_PATIENTS = 20  # with fewer, resamples and the variance between patients say too little
FEW_IMAGES = 50  # with fewer, the limit of a shift lies far above small
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


def rule_words(decision: Decision, label: LabelStudy) -> str:
    """Say how a threshold was fixed, and on what where the label's units are others."""
    if decision.rule == "given":
        return "given by the user"
    known = {"youden": "by Youden's index", "decision": "in the bundle"}
    how = known.get(decision.rule, f"for a {decision.rule.replace(' ', ' of ')}")
    on = "" if label.unit == "image" else " on single images"
    return f"fixed before the test{on}, {how}"


def measure_words(shift: Shift) -> str:
    """Name what a shift was measured in."""
    if shift.measure.startswith(SCORE):
        return f"score for {shift.measure.removeprefix(SCORE)}"
    return _MEASURES.get(shift.measure, shift.measure)


def headline(label: LabelStudy) -> tuple[str, ...]:
    """Return the main result of one label, a sentence each."""
    of_patients = f" of {_patients(label.n_patients)}" if label.n_patients and label.unit != "patient" else ""
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
        f"At the threshold of {number(decision.threshold)}, {rule_words(decision, label)}, it found "
        f"{count(decision.tp)} of {units(label, n_positive)} with {label.label} ({sensitivity}) and cleared "
        f"{count(decision.tn)} of {count(n_negative)} without ({specificity})."
    )


def _share(name: str, interval: Interval | None) -> str:
    return f"{name} {percent(interval.value)}, {share_limits(interval)}" if interval else f"no {name}"


def _calibration_words(label: LabelStudy) -> str:
    of = label.calibration
    clear = (
        _where_clear(of.intercept, 0, "too high on the whole", "too low on the whole"),
        _where_clear(of.slope, 1, "too extreme", "too cautious"),
    )
    if found := " and ".join(text for text in clear if text):
        return f"Read as probabilities, its scores were {found}."
    if of.intercept and of.slope:
        return (
            "Read as probabilities, its scores were not clearly off. That does not prove that they are right."
        )
    return "Whether its scores are right as probabilities could not be told here."


def _where_clear(interval: Interval | None, perfect: float, below: str, above: str) -> str | None:
    """Return what an interval says that leaves out what is perfect."""
    if interval and interval.high < perfect:
        return below
    return above if interval and interval.low > perfect else None


def _patients(n: int) -> str:
    return f"{count(n)} patient{'' if n == 1 else 's'}"


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
        *study.notes,
        *_missing_scores(study),
        *(text for label in study.labels for text in _few_units(label)),
        *_few_patients(study),
        *_highest_of_several(study),
        *_shifted(study),
        *_ungradable(study),
        *_unknown_patients(study),
    )


def _missing_scores(study: Study) -> Iterator[str]:
    flow, failed, unit = study.flow, sum(study.flow.failed.values()), study.labels[0].unit
    if not failed:
        return
    known = count(flow.n_failed_positive + flow.n_failed_negative)
    counted, wrong = "them", "wrong decisions"
    if unit != "image":
        counted, wrong = f"each {unit} without any score", "a wrong decision"
    yield (
        f"{count(failed)} of {count(flow.n_files)} files have no score. Where their label is known "
        f"({known}), the tables of decisions count {counted} both ways: left out, and as {wrong}."
    )


def _few_units(label: LabelStudy) -> Iterator[str]:
    for n, kind in ((label.n_positive, ""), (label.n - label.n_positive, "no ")):
        if n < FEW:
            yield (
                f"Only {units(label, n)} with {kind}{label.label}: one decision more or less moves "
                "the figures a lot. Rely on the intervals, not on the estimates."
            )


def _few_patients(study: Study) -> Iterator[str]:
    fewest = min((label.n_patients for label in study.labels if label.n_patients), default=FEW_PATIENTS)
    if fewest < FEW_PATIENTS:
        yield (
            f"The images are of only {_patients(fewest)}. The bootstrap's intervals, and those that allow "
            "for several images of a patient, rest on few patients and are likely too narrow."
        )


def _highest_of_several(study: Study) -> Iterator[str]:
    label = study.labels[0]
    if label.unit != "image" and label.rule == "max":
        yield (
            f"The score of each {label.unit} is the highest of its images, and the highest of several is "
            "higher than that of one. Thresholds and calibrators are made for single images: with several, "
            f"more {label.unit}s are called positive, and probabilities are too high."
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
