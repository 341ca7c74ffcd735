from dataclasses import replace

import numpy as np
import pytest
from tests.conftest import bare_spec

from fundus_core.ensemble import Precision
from fundus_core.tables import LabelTable
from fundus_eval.parity import SAME_GRAPHS, Answers, Parity, Truth, compare, laid_out

RNG = np.random.default_rng(0)
FOLDS = RNG.uniform(0.05, 0.95, (40, 2, 1))
CLASSES = (np.arange(40) % 2).astype(np.int8)[:, None]
TRUTH = Truth(CLASSES, np.arange(40))


def answers(folds: np.ndarray) -> Answers:
    return Answers(folds.mean(axis=1), folds)


def parity(
    precision: Precision, folds: np.ndarray, truth: Truth = TRUTH, repeats: tuple[Answers, ...] = ()
) -> Parity:
    spec = replace(bare_spec(2), precision=precision)
    return compare(spec, answers(FOLDS), answers(folds), truth, repeats)


def test_the_same_answers_break_nothing() -> None:
    found = parity("fp32", FOLDS)
    assert (found.max_dp, found.mean_dp, found.n_flipped, found.broken) == (0, 0, 0, ())


def test_differences_are_those_of_the_folds() -> None:
    moved = FOLDS.copy()
    moved[3, 1] += 0.04
    found = parity("fp32", moved)
    assert found.max_dp == pytest.approx(0.04)
    assert found.mean_dp == pytest.approx(0.04 / FOLDS.size)


@pytest.mark.parametrize(
    ("precision", "step", "broken"),
    [
        ("fp32", 2e-4, True),
        ("fp32", 5e-5, False),
        ("fp16", 2e-4, False),
        ("fp16", 6e-3, True),
        ("int8", 6e-3, False),
    ],
)
def test_each_precision_has_its_own_limit(precision: Precision, step: float, broken: bool) -> None:
    far = np.where(abs(FOLDS.mean(axis=1, keepdims=True) - 0.5) < 0.01, FOLDS, FOLDS + step)  # nothing flips
    assert parity(precision, far).broken == (("max |dp|",) if broken else ())


def test_a_flipped_decision_breaks_full_and_half_precision_however_small_it_is() -> None:
    near, moved = FOLDS.copy(), FOLDS.copy()
    near[0], moved[0] = 0.5 + 1e-6, 0.5 - 1e-6
    for precision, broken in (("fp32", ("flipped",)), ("fp16", ("flipped",)), ("int8", ())):
        spec = replace(bare_spec(2), precision=precision)
        found = compare(spec, answers(near), answers(moved), TRUTH)
        assert (found.n_flipped, found.n_decisions, found.broken) == (1, 40, broken)


def test_int8_is_judged_by_the_auc_and_its_interval() -> None:
    told_apart = np.clip(0.3 + 0.4 * CLASSES[:, :, None] + 0.5 * (FOLDS - 0.5), 0, 1)
    spec = replace(bare_spec(2), precision="int8")
    noisy = np.clip(told_apart + RNG.normal(0, 0.2, FOLDS.shape), 0, 1)
    worse = compare(spec, answers(told_apart), answers(noisy), TRUTH)
    (change,) = worse.auc
    assert change is not None
    assert change.low < -0.01
    assert worse.broken == ("AUC change",)
    assert compare(spec, answers(told_apart), answers(told_apart + 1e-3), TRUTH).broken == ()


def test_int8_graphs_must_repeat_their_own_answers() -> None:
    spec, squeezed = replace(bare_spec(2), precision="int8"), 0.3 * FOLDS + 0.05
    assert compare(spec, answers(FOLDS), answers(squeezed)).broken == ()  # of PyTorch they may be so far
    assert compare(spec, answers(FOLDS), answers(squeezed), limit=SAME_GRAPHS).broken == (
        "max |dp|",
        "flipped",
    )
    assert compare(spec, answers(squeezed), answers(squeezed + 1e-3), limit=SAME_GRAPHS).broken == ()


def test_answers_that_depend_on_the_batch_are_noticed() -> None:
    moved = FOLDS.copy()
    moved[5, 0] += 0.01
    found = parity("fp32", FOLDS, repeats=(answers(FOLDS), answers(moved)))
    assert found.repeat_dp == pytest.approx(0.01)
    assert found.broken == ("repeats",)
    assert parity("fp32", FOLDS).repeat_dp is None
    lost = answers(np.full_like(FOLDS, np.nan))
    assert parity("fp32", FOLDS, repeats=(answers(FOLDS), lost)).broken == ("repeats",)


def test_a_nan_breaks_the_limits() -> None:
    broken = FOLDS.copy()
    broken[0] = np.nan
    with np.errstate(invalid="ignore"):
        assert "max |dp|" in parity("fp32", broken, Truth.unknown(40, 1)).broken


def test_several_images_of_a_patient_make_the_interval_of_the_auc_wider() -> None:
    """The same patients photographed four times tell what one photograph of each does."""
    spec = replace(bare_spec(2), precision="int8")
    moved = np.clip(FOLDS + RNG.normal(0, 0.2, FOLDS.shape), 0, 1)
    four = [answers(np.tile(folds, (4, 1, 1))) for folds in (FOLDS, moved)]
    alone, clustered = (
        compare(spec, *four, Truth(np.tile(CLASSES, (4, 1)), patient)).auc[0]
        for patient in (np.arange(160), np.tile(np.arange(40), 4))
    )
    once = compare(spec, answers(FOLDS), answers(moved), TRUTH).auc[0]
    assert alone and clustered and once
    assert clustered.high - clustered.low == pytest.approx(once.high - once.low, rel=0.05)
    assert clustered.high - clustered.low > 1.8 * (alone.high - alone.low)


def test_what_a_table_says_of_images_is_found_by_their_names() -> None:
    table = LabelTable(("a", "b", "c"), ("x",), np.array([[1], [0], [1]], np.int8), ("p", "q", "p"))
    found = Truth.of(table, ["c", "gone", "a"])
    assert found.values.tolist() == [[1], [-1], [1]]
    assert found.patient[0] == found.patient[2] != found.patient[1]
    both = Truth.unknown(2, 1) + found
    assert both.values.tolist() == [[-1], [-1], [1], [-1], [1]]
    assert len(set(both.patient.tolist())) == 4


def test_without_both_classes_there_is_no_auc() -> None:
    assert parity("fp32", FOLDS, Truth.unknown(40, 1)).auc == (None,)


def test_the_lines_name_every_figure_with_its_limit() -> None:
    lines = list(parity("fp32", FOLDS + 2e-4, repeats=(answers(FOLDS + 2e-4),)).lines())
    assert [line.split("  ")[0].strip() for line in lines] == [
        "images", "precision", "mean |dp|", "max |dp|", "repeats", "flipped", "AUC change",
    ]  # fmt: skip
    assert "2.0e-04  limit 0.0001  BROKEN" in lines[3]
    assert lines[4].endswith("limit 0.0001  ok")


def test_several_comparisons_are_laid_out_each_behind_its_name() -> None:
    said = laid_out([("PyTorch", parity("fp32", FOLDS)), ("graphs", parity("int8", FOLDS))]).splitlines()
    assert [line.split()[:3:2] for line in said if "precision" in line] == [
        ["PyTorch", "fp32"],
        ["graphs", "int8"],
    ]
