"""The report without a browser: its words, its figures' numbers, its JSON, and texts that mean harm."""

import base64
import hashlib
import io
import json
import math
import re
import sys
from collections import Counter
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from tests.eval.studies import HOSTILE, bare_study, hostile_study, label_study, study

from fundus_core.errors import MissingExtraError, UsageError
from fundus_eval.intervals import Interval
from fundus_eval.report import report_html, study_json, words, write_figures
from fundus_eval.report.formats import MINUS, MISSING, estimate, number, printable, share
from fundus_eval.report.rows import decision_rows
from fundus_eval.study import AtPrevalence, Rule, Study, Unit

pytest.importorskip("matplotlib", reason="needs matplotlib, which draws the figures")
pytest.importorskip("jinja2", reason="needs Jinja2, which fills the template")

from fundus_eval.report.charts import draw_calibration, draw_histogram, draw_subgroups
from fundus_eval.report.curves import draw_decision_curve, draw_precision_recall, draw_roc
from fundus_eval.report.figures import flow_picture, label_pictures
from fundus_eval.report.style import figure_style

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a page holds; reading it fails where an element is not closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attributes in self.elements if (value := attributes.get(name)) is not None]


@pytest.fixture(scope="module")
def whole() -> Study:
    return study()


@pytest.fixture(scope="module")
def html(whole: Study) -> str:
    return report_html(whole, "Inner test", {})


@pytest.fixture(scope="module")
def hostile_html() -> str:
    return report_html(hostile_study(), HOSTILE[0], {HOSTILE[1]: thumbnail()})


def thumbnail() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (150, 60, 20)).save(buffer, "JPEG")
    return buffer.getvalue()


def as_lists(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_the_json_holds_every_number_of_the_study(whole: Study) -> None:
    values = study_json(whole)
    assert [case.pop("error") for case in values["labels"][0]["cases"]] == [
        case.error for case in whole.labels[0].cases
    ]
    assert [shift.pop("shifted") for shift in values["shift"]] == [False, True, False, True]
    assert values == as_lists(asdict(whole))


@pytest.mark.parametrize("of", [bare_study, hostile_study])
def test_the_json_is_finite_utf8(of: Any) -> None:
    json.dumps(study_json(of()), allow_nan=False, ensure_ascii=False).encode()


def test_what_is_no_finite_number_is_null_in_the_json() -> None:
    (label,) = study_json(bare_study())["labels"]
    assert label["calibration"]["reliability"] is None
    assert label["decisions"][0]["lr_positive"] == {"value": None, "low": 2.0, "high": None}


def test_the_json_holds_numpys_numbers_as_plain_ones() -> None:
    made = {"resamples": np.int64(2000), "thresholds": np.array([0.5, np.nan]), "clustered": np.True_}
    values = study_json(replace(bare_study(), made=made))["made"]
    assert values == {"resamples": 2000, "thresholds": [0.5, None], "clustered": True}


def test_the_page_is_well_formed_and_its_links_lead_somewhere(html: str, hostile_html: str) -> None:
    for page in (Page(html), Page(hostile_html), Page(report_html(bare_study(), "Bare", {}))):
        ids = Counter(page.attributes("id"))
        assert set(ids.values()) == {1}
        targets = [link.removeprefix("#") for link in page.attributes("href")]
        assert set(targets) <= set(ids)
        assert {word for names in page.attributes("aria-labelledby") for word in names.split()} <= set(ids)


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


def test_several_labels_have_a_section_each_and_a_mean() -> None:
    three = study(120, ("glaucoma", "cataract", "amd"))
    page = Page(report_html(three, "Three", {}))
    assert "Over 3 labels, the mean AUC is 0.921 (0.900 to 0.942)." in page.text
    for label in three.labels:
        assert f"told {label.label} from no {label.label}" in page.text
        assert estimate(label.auc) in page.text


def test_at_most_500_cases_are_listed_the_most_wrong_ones(whole: Study, html: str) -> None:
    assert html.count('<tr><th scope="row" class="foreign">site-') == 500
    text = Page(html).text
    assert "The 500 most wrong of 578 images." in text
    assert whole.labels[0].cases[499].image_id in text
    assert whole.labels[0].cases[500].image_id not in text


def test_thumbnails_are_of_the_most_wrong_and_said_to_be_of_patients(whole: Study) -> None:
    cases = whole.labels[0].cases
    page = Page(report_html(whole, "Pictures", {case.image_id: thumbnail() for case in cases[1:20]}))
    shown = [text for text in page.attributes("alt") if text.startswith("Fundus photograph")]
    assert shown == [f"Fundus photograph {case.image_id}" for case in cases[1:13]]
    assert "These are photographs of patients." in page.text
    data = base64.b64encode(thumbnail()).decode()
    assert page.attributes("src").count(f"data:image/jpeg;base64,{data}") == 12


def test_without_thumbnails_there_is_no_photograph(html: str) -> None:
    assert "photographs of patients" not in html
    assert all(src.startswith("data:image/svg+xml;") for src in Page(html).attributes("src"))


def test_hostile_texts_stay_texts(hostile_html: str) -> None:
    page = Page(hostile_html.encode().decode())
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["script"] == tags["style"] == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    for text in HOSTILE:
        assert " ".join(printable(text).split()) in page.text


def test_the_policy_allows_this_style_and_script_and_nothing_else(html: str) -> None:
    (policy,) = [text for text in Page(html).attributes("content") if "default-src" in text]
    for tag in ("style", "script"):
        text = re.search(f"<{tag}>(.*)</{tag}>", html, re.DOTALL)
        assert text
        digest = base64.b64encode(hashlib.sha256(text[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_every_figure_says_its_numbers_in_words(whole: Study, html: str) -> None:
    label = whole.labels[0]
    alternatives = "\n".join(Page(html).attributes("alt"))
    assert len(alternatives.splitlines()) == 8
    assert f"ROC curve of glaucoma: AUC {estimate(label.auc)}" in alternatives
    for group in label.subgroups:
        assert f"{group.column} {group.value}: {estimate(group.auc)}" in alternatives
    assert f"{number(label.calibration.bins[3].predicted)} said" in alternatives
    assert "Files found: 608; No score: 12; corrupt: 7; too many pixels: 3; empty: 2" in alternatives


def test_curves_are_drawn_through_the_studys_points(whole: Study) -> None:
    label = whole.labels[0]
    with figure_style():
        for draw, x, y in (
            (draw_roc, label.roc.x, label.roc.y),
            (draw_precision_recall, label.precision_recall.x, label.precision_recall.y),
            (draw_decision_curve, label.net_benefit.threshold, label.net_benefit.model),
        ):
            lines = [line.get_xydata().tolist() for line in draw(label).axes[0].lines]
            assert np.column_stack([x, y]).tolist() in lines


def test_the_bins_are_drawn_before_and_after_the_calibrator(whole: Study) -> None:
    label = whole.labels[0]
    with figure_style():
        lines = [line.get_xydata().tolist() for line in draw_calibration(label).axes[0].lines]
    for calibration in (label.calibration, label.calibrated):
        assert calibration
        assert [[bin_.predicted, bin_.observed.value] for bin_ in calibration.bins] in lines


def test_the_histogram_has_the_studys_counts(whole: Study) -> None:
    histogram = whole.labels[0].histogram
    with figure_style():
        above, below = draw_histogram(whole.labels[0]).axes
        drawn = [axes.patches[0].get_data().values.tolist() for axes in (above, below)]
    assert drawn == [list(histogram.positive), list(histogram.negative)]


def test_the_forest_has_a_mark_per_subgroup_and_says_where_there_is_no_auc(whole: Study) -> None:
    label = whole.labels[0]
    with figure_style():
        (axes,) = draw_subgroups(label).axes
        texts = [text.get_text() for text in axes.texts]
        marks = [float(container.lines[0].get_xdata()[0]) for container in axes.containers]
    assert marks == [label.auc.value, *(group.auc.value for group in label.subgroups if group.auc)]
    assert texts.count("one class only: no AUC") == 1
    assert f"n {label.subgroups[-1].n}" in texts


def test_figures_are_written_as_svg_and_png_one_of_each_kind_and_label(tmp_path: Path) -> None:
    two = study(120, ("a/b", "a b"))
    files = write_figures(two, tmp_path / "new" / "figures")
    assert sorted(files) == sorted((tmp_path / "new" / "figures").iterdir())
    assert Counter(file.suffix for file in files) == {".svg": 15, ".png": 15}
    for file in files:
        if file.suffix == ".svg":
            ElementTree.parse(file)  # noqa: S314  # our own file
        else:
            assert min(Image.open(file).size) > 200


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written: Not a directory\. Choose another folder\."):
        write_figures(bare_study(), tmp_path / "file" / "figures")


def test_hostile_texts_make_svg_that_is_xml_and_no_formula() -> None:
    of = hostile_study()
    assert rb">$\frac{1}{2}$" in label_pictures(of.labels[1], 2)["subgroups"].svg()
    for picture in (flow_picture(of), *label_pictures(of.labels[1], 2).values()):
        root = ElementTree.fromstring(picture.svg())  # noqa: S314  # our own file
        assert not [element for element in root.iter() if element.tag.endswith(("script", "}img"))]


def test_the_same_study_gives_the_same_bytes_whatever_the_users_settings(tmp_path: Path, html: str) -> None:
    import matplotlib

    first = [file.read_bytes() for file in write_figures(bare_study(), tmp_path / "1")]
    with matplotlib.rc_context({"font.size": 23, "axes.facecolor": "black", "text.usetex": True}):
        second = [file.read_bytes() for file in write_figures(bare_study(), tmp_path / "2")]
        assert report_html(study(), "Inner test", {}) == html
    assert first == second


def test_a_study_in_which_everything_is_missing_has_a_report() -> None:
    text = Page(report_html(bare_study(), "Bare", {})).text
    for said in (
        "No column of the labels table was named to form subgroups.",
        "The table of scores does not hold the folds.",
        "What the images of the training were like is not known",
        "Nothing was recorded about it.",
        "∞ (2.00 to ∞)",
    ):
        assert said in text
    assert "None" not in text
    assert "nan" not in text


def test_a_label_without_a_threshold_has_a_report(whole: Study) -> None:
    label = replace(label_study(60), decisions=())
    several = replace(whole, labels=(label, label), auc_macro=None)
    for of in (replace(whole, labels=(label,)), several):
        assert "No threshold is known, so nothing was decided." in Page(report_html(of, "None", {})).text


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_a_sentence(whole: Study, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf"{missing}.*pip install 'fundus-triton\[report\]'"):
        report_html(whole, "Missing", {})


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
