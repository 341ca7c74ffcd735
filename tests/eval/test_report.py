"""The report without a browser: the page, its JSON, and texts that mean harm."""

import base64
import hashlib
import io
import json
import re
import sys
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.eval.pages import Page
from tests.eval.studies import HOSTILE, bare_study, hostile_study, label_study, study

from fundus_core.errors import MissingExtraError
from fundus_eval.report import report_html, study_json
from fundus_eval.report.formats import estimate, printable
from fundus_eval.study import Study

pytest.importorskip("matplotlib", reason="needs matplotlib, which draws the figures")
pytest.importorskip("jinja2", reason="needs Jinja2, which fills the template")


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
