import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from scipy.special import expit
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels

from fundus_eval.auc import auc_delong, delong_test
from fundus_eval.cli import main
from fundus_eval.comparison import mcnemar, reclassify

RNG = np.random.default_rng(0)
TRUTH = np.arange(60) % 2
FIRST = expit(TRUTH + RNG.normal(0, 1, 60))
SECOND = expit(TRUTH + RNG.normal(0, 2, 60))


def table(path: Path, column: str, values: dict[str, float]) -> Path:
    path.write_text(f"image_id,{column}\n" + "".join(f"{name},{value}\n" for name, value in values.items()))
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return table(
        tmp_path / "labels.csv", "glaucoma", {f"{i}.jpg": int(value) for i, value in enumerate(TRUTH)}
    )


def scores(path: Path, values: np.ndarray, rows: range) -> Path:
    return table(path, "probability", {f"{i}.jpg": values[i] for i in rows})


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def test_images_are_matched_by_their_id_and_the_rest_is_counted(tmp_path: Path, labels: Path) -> None:
    first = scores(tmp_path / "first.csv", FIRST, range(50))
    second = scores(tmp_path / "second.csv", SECOND, range(59, 9, -1))
    (found,) = json.loads(run(first, second, labels, "--json").stdout)
    common = slice(10, 50)
    expected = delong_test(TRUTH[common], FIRST[common], SECOND[common]).difference
    assert (found["n"], found["n_positive"], found["n_left_out"]) == (40, 20, 20)
    assert found["difference"]["value"] == pytest.approx(expected.value)
    assert found["difference"]["low"] == pytest.approx(expected.low)
    assert found["first"]["value"] == pytest.approx(auc_delong(TRUTH[common], FIRST[common]).value)


def test_the_line_says_the_same(tmp_path: Path, labels: Path) -> None:
    first = scores(tmp_path / "first.csv", FIRST, range(60))
    second = scores(tmp_path / "second.csv", SECOND, range(60))
    change = delong_test(TRUTH, FIRST, SECOND).difference
    said = run(first, second, labels).stdout
    assert said.startswith("glaucoma  ")
    assert f"difference {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]" in said
    assert "60 images, 30 positive, 0 left out" in said


def test_tables_without_a_common_image_are_a_sentence(tmp_path: Path, labels: Path) -> None:
    first = scores(tmp_path / "first.csv", FIRST, range(20))
    done = run(first, scores(tmp_path / "second.csv", SECOND, range(20, 60)), labels)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no labelled image in common" in done.stderr


def test_one_class_alone_is_a_sentence(tmp_path: Path, labels: Path) -> None:
    first = scores(tmp_path / "first.csv", FIRST, range(1))
    done = run(first, scores(tmp_path / "second.csv", SECOND, range(60)), labels)
    assert done.exit_code == 2
    assert "Add positive images: the AUC needs both." in done.stderr


def test_patients_widen_the_interval_of_the_difference(tmp_path: Path) -> None:
    """Every image twice: the AUCs and their difference stay, and so does what is known of them."""
    twice = {f"{name}{i}.jpg": i for name in "ab" for i in range(60)}
    tables = [
        table(tmp_path / f"{n}.csv", "probability", {name: values[i] for name, i in twice.items()})
        for n, values in enumerate((FIRST, SECOND))
    ]
    of_images = table(tmp_path / "images.csv", "glaucoma", {name: TRUTH[i] for name, i in twice.items()})
    rows = [f"{name},{TRUTH[i]},patient {i}" for name, i in twice.items()]
    of_patients = tmp_path / "patients.csv"
    of_patients.write_text("\n".join(["image_id,glaucoma,patient_id", *rows]) + "\n")
    (images,), (patients,) = (
        json.loads(run(*tables, each, "--json").stdout) for each in (of_images, of_patients)
    )
    assert (images["n_patients"], patients["n_patients"]) == (None, 60)
    assert patients["difference"]["value"] == images["difference"]["value"]
    once = delong_test(TRUTH, FIRST, SECOND)
    assert patients["p_value"] == pytest.approx(once.p_value, rel=0.05)
    assert images["p_value"] < 0.7 * patients["p_value"]


def test_changed_decisions_are_split_by_the_truth() -> None:
    truth = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    first, second = np.array([1, 1, 0, 0, 1, 0, 0, 1], bool), np.array([1, 0, 1, 1, 0, 0, 1, 0], bool)
    found = reclassify(truth, first, second, (0.4, 0.6))
    positive, negative = found.positive, found.negative
    assert (positive.both_right, positive.only_first_right) == (1, 1)
    assert (positive.only_second_right, positive.both_wrong) == (2, 0)
    assert (negative.both_right, negative.only_first_right) == (1, 1)
    assert (negative.only_second_right, negative.both_wrong) == (2, 0)
    assert positive.change.value == pytest.approx(1 / 4)
    assert negative.change.value == pytest.approx(1 / 4)
    assert found.net.value == pytest.approx(1 / 2)
    for change in (positive.change, negative.change, found.net):
        assert change.low < change.value < change.high


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (0, 6), (6, 0), (3, 12), (7, 7), (400, 470)])
def test_mcnemar_is_that_of_statsmodels(lost: int, gained: int) -> None:
    expected = mcnemar_of_statsmodels([[10, lost], [gained, 5]], exact=True).pvalue
    assert mcnemar(lost, gained) == pytest.approx(expected)


def test_mcnemar_of_very_many_images_does_not_overflow() -> None:
    assert mcnemar(100_000, 100_000) == 1
    assert mcnemar(99_000, 101_000) == pytest.approx(7.8e-6, rel=0.05)


def test_a_changed_share_covers_as_often_as_it_says() -> None:
    rng, truth, covered = np.random.default_rng(0), np.ones(80, int), 0
    for _ in range(500):
        draw = rng.random(80)
        first, second = draw < 0.6, (draw < 0.5) | (draw > 0.85)  # 10 % lost, 15 % gained
        found = reclassify(np.append(truth, 0), np.append(first, False), np.append(second, False), (0.5, 0.5))
        covered += found.positive.change.low <= 0.05 <= found.positive.change.high
    assert 0.925 * 500 < covered < 0.985 * 500


def test_unchanged_decisions_are_no_certainty_and_patients_count_once() -> None:
    truth, decided, cluster = np.repeat([1, 0], 10), np.repeat([True, False], 10), np.arange(20) // 5
    images, patients = (reclassify(truth, decided, decided, (0.5, 0.5), each) for each in (None, cluster))
    assert (images.positive.test, images.positive.p_value) == ("McNemar", 1)
    assert (patients.positive.test, patients.positive.p_value) == ("by patient", 1)
    assert images.positive.change.low < images.positive.change.value == 0 < images.positive.change.high
    assert patients.positive.change.high > 1.5 * images.positive.change.high


def test_without_an_effect_the_p_value_by_patient_is_rarely_small_and_agrees_with_the_interval() -> None:
    """57 patients of 3 images that are much alike; McNemar's p is below 0.05 in some 12 % of the draws."""
    rng, cluster, n_drawn, n_small = np.random.default_rng(0), np.repeat(np.arange(57), 3), 400, 0
    truth = np.append(np.ones(171, int), 0)

    def decided() -> NDArray[np.bool_]:
        score = 0.9 * rng.normal(size=57)[cluster] + 0.45 * rng.normal(size=171) > -0.75
        return np.append(score, False)

    for _ in range(n_drawn):
        moves = reclassify(truth, decided(), decided(), (0.5, 0.5), np.append(cluster, 57)).positive
        assert (moves.p_value < 0.05) == (moves.change.low > 0 or moves.change.high < 0)
        n_small += moves.p_value < 0.05
    assert moves.test == "by patient"
    assert 0.01 * n_drawn < n_small < 0.08 * n_drawn


def test_the_command_says_which_decisions_changed(tmp_path: Path, labels: Path) -> None:
    first = scores(tmp_path / "first.csv", FIRST, range(60))
    second = scores(tmp_path / "second.csv", SECOND, range(60))
    said = run(first, second, labels, "--threshold", "0.6").stdout
    gained = int(((FIRST < 0.6) & (SECOND >= 0.6) & (TRUTH == 1)).sum())
    lost = int(((FIRST >= 0.6) & (SECOND < 0.6) & (TRUTH == 1)).sum())
    assert "thresholds   0.6000 -> 0.6000" in said
    assert f"(McNemar)  {gained} gained, {lost} lost" in said
    assert "net change" in said
    assert "sensitivity" not in run(first, second, labels).stdout
    rows = [f"{i}.jpg,{value},{i // 4}" for i, value in enumerate(TRUTH)]
    patients = tmp_path / "patients.csv"
    patients.write_text("\n".join(["image_id,glaucoma,patient_id", *rows]) + "\n")
    said = run(first, second, patients, "--threshold", "0.6").stdout
    assert f"(by patient)  {gained} gained, {lost} lost" in said
    assert "McNemar" not in said
