"""What the report says in words: headline, doubts, numbers written for people."""

import math
from dataclasses import replace

import pytest
from tests.eval.pages import Page
from tests.eval.studies import bare_study

from fundus_eval.intervals import Interval
from fundus_eval.report import report_html, words
from fundus_eval.report.formats import MINUS, MISSING, estimate, number, share
from fundus_eval.report.rows import decision_rows
from fundus_eval.study import AtPrevalence, Rule, Study, Unit

pytest.importorskip("matplotlib", reason="needs matplotlib, which draws the figures")
pytest.importorskip("jinja2", reason="needs Jinja2, which fills the template")


def test_the_headline_says_the_main_numbers(whole: Study, html: str) -> None:
    label = whole.labels[0]
    first = label.decisions[0]
    text = Page(html).text
    assert (
        f"In 578 images of 289 patients, the ensemble told glaucoma from no glaucoma with an AUC of "
        f"{label.auc.value:.3f} (95 % CI {label.auc.low:.3f} to {label.auc.high:.3f})." in text
    )
    found = f"it found {first.tp} of {first.tp + first.fn} images with glaucoma (sensitivity "
    assert f"At the threshold of 0.380, fixed before the test, by Youden's index, {found}" in text
    assert f"cleared {first.tn} of {first.tn + first.fp} without (specificity " in text


def test_every_decision_is_reported_with_both_ways_of_counting_failures(whole: Study, html: str) -> None:
    text = Page(html).text
    for decision in whole.labels[0].decisions:
        assert f"glaucoma {decision.tp} true positive {decision.fn} missed" in text
        assert f"no glaucoma {decision.fp} false alarm {decision.tn} true negative" in text
        ppv = decision.predictive[0].ppv
        for interval in (decision.sensitivity, decision.sensitivity_all, decision.specificity_all, ppv):
            assert " ".join(share(interval).split()) in text
    assert "PPV where 2 % have it" in text


def test_doubts_come_before_the_results(html: str) -> None:
    text = Page(html).text
    doubt = text.index("12 of 608 files have no score.")
    assert doubt < text.index("In short")
    assert (
        "differ from those of the training in: brightness, sharpness." in text[doubt : text.index("In short")]
    )


def test_a_study_without_doubts_has_none(whole: Study) -> None:
    flow = replace(whole.flow, failed={}, n_ungradable=1)
    sound = replace(whole, flow=flow, shift=whole.shift[:1])
    assert words.doubts(sound) == ()
    assert "Read this first" not in report_html(sound, "Sound", {})


@pytest.mark.parametrize(("n_positive", "kind"), [(9, "glaucoma"), (571, "no glaucoma")])
def test_few_units_of_a_class_are_a_doubt(whole: Study, n_positive: int, kind: str) -> None:
    few = replace(whole, labels=(replace(whole.labels[0], n_positive=n_positive),))
    assert any(
        text.startswith(("Only 9 images", "Only 7 images")) and kind in text for text in words.doubts(few)
    )


def test_unknown_patients_are_a_doubt() -> None:
    assert [text for text in words.doubts(bare_study()) if text.startswith("The labels name no patients")]


@pytest.mark.parametrize(
    ("intercept", "slope", "said"),
    [
        (Interval(-0.4, -0.7, -0.1), Interval(1.1, 0.9, 1.3), "scores were too high on the whole."),
        (
            Interval(0.4, 0.1, 0.7),
            Interval(0.7, 0.5, 0.9),
            "scores were too low on the whole and too extreme.",
        ),
        (Interval(0.1, -0.1, 0.3), Interval(1.4, 1.1, 1.7), "scores were too cautious."),
        (Interval(0.1, -0.1, 0.3), Interval(1.1, 0.9, 1.3), "were not clearly off"),
        (Interval(0.1, -0.1, 0.3), None, "could not be told"),
        (None, None, "could not be told"),
    ],
)
def test_the_headline_says_of_probabilities_only_what_is_clear(
    whole: Study, intercept: Interval | None, slope: Interval | None, said: str
) -> None:
    label = whole.labels[0]
    of = replace(label.calibration, intercept=intercept, slope=slope)
    assert said in words.headline(replace(label, calibration=of))[-1]


def test_the_calibration_error_stands_beside_that_of_chance(whole: Study, html: str) -> None:
    of = whole.labels[0].calibration
    expected = f"{estimate(of.ece)} … by chance, if all were right {number(of.ece_by_chance)}"
    assert expected in Page(html).text


def test_few_patients_are_a_doubt(whole: Study) -> None:
    for n, said in ((19, ["only 19 patients."]), (1, ["only 1 patient."]), (20, [])):
        few = replace(whole, labels=(replace(whole.labels[0], n_patients=n),))
        found = [text for text in words.doubts(few) if "likely too narrow" in text]
        assert len(found) == len(said)
        assert all(each in text for each, text in zip(said, found, strict=True))
    assert "578 images of 1 patient, the" in words.headline(replace(whole.labels[0], n_patients=1))[0]


@pytest.mark.parametrize(("unit", "rule"), [("image", "mean"), ("eye", "mean"), ("patient", "max")])
def test_what_was_made_for_single_images_is_said_where_units_are_others(
    whole: Study, unit: Unit, rule: Rule
) -> None:
    of = replace(whole, labels=(replace(whole.labels[0], unit=unit, rule=rule),))
    text, is_single = Page(report_html(of, "Units", {})).text, unit == "image"
    assert ("fixed before the test on single images, by Youden's index" in text) != is_single
    assert ("After the bundle's calibrator, made for single images" in text) != is_single
    assert ("is the highest of its images, and the highest of several is higher" in text) == (rule == "max")
    assert ("count them both ways: left out, and as wrong decisions." in text) == is_single
    assert (f"count each {unit} without any score both ways" in text) != is_single


def test_an_interval_on_which_all_resamples_agree_is_none(whole: Study) -> None:
    assert estimate(Interval(1.0, 1.0 - 1e-16, 1.0)) == "1.000 (no interval)"
    assert " ".join(share(Interval(0.5, 0.5, 0.5)).split()) == "50.0 % (no interval)"
    certain = replace(whole.labels[0], average_precision=Interval(1.0, 1.0, 1.0))
    text = Page(report_html(replace(whole, labels=(certain,)), "Certain", {})).text
    assert "Average precision 1.000 no interval" in text


def test_the_section_on_shift_says_what_it_cannot_see(whole: Study, html: str) -> None:
    text = Page(html).text
    assert "as in training" not in text
    assert text.count("no shift seen") == 2
    assert "where a patient has several, chance alone exceeds the limit more often" in text
    assert "one of their sources alone, such as one camera, can differ" in text
    few = Page(report_html(replace(whole, flow=replace(whole.flow, n_scored=49)), "Few", {})).text
    assert "With only 49 scored images" in few
    assert "scored images, all but" not in text


@pytest.mark.parametrize(
    ("prevalence", "text"), [(0.0001, "0.01 %"), (0.02, "2 %"), (0.07, "7 %"), (0.125, "12.5 %")]
)
def test_a_prevalence_is_written_with_all_its_digits(whole: Study, prevalence: float, text: str) -> None:
    decision = replace(whole.labels[0].decisions[0], predictive=(AtPrevalence(prevalence, None, None),))
    assert " ".join(decision_rows(decision)[-1][0].split()) == f"NPV where {text} have it"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, MISSING),
        (math.nan, MISSING),
        (-math.inf, f"{MINUS}∞"),
        (-0.5, f"{MINUS}0.500"),
        (-0.0001, "0.000"),
    ],
)
def test_numbers_are_written_for_people(value: float | None, text: str) -> None:
    assert number(value) == text
