"""The figures of the report, drawn: their numbers are the study's."""

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from tests.eval.pages import Page
from tests.eval.studies import bare_study, hostile_study, study

from fundus_core.errors import UsageError
from fundus_eval.report import report_html, write_figures
from fundus_eval.report.formats import estimate, number
from fundus_eval.study import Study

pytest.importorskip("matplotlib", reason="needs matplotlib, which draws the figures")
pytest.importorskip("jinja2", reason="needs Jinja2, which fills the template")

from fundus_eval.report.charts import draw_calibration, draw_histogram, draw_subgroups
from fundus_eval.report.curves import draw_decision_curve, draw_precision_recall, draw_roc
from fundus_eval.report.figures import flow_picture, label_pictures
from fundus_eval.report.style import figure_style


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
