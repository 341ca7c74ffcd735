import numpy as np
import pytest

from fundus_core.errors import UsageError
from fundus_eval.auc import auc_delong
from fundus_eval.operating import confusion
from fundus_eval.study import Sample
from fundus_eval.subgroups import subgroups


def sample(n=120, cluster=None, **columns):
    rng = np.random.default_rng(0)
    truth = (np.arange(n) % 3 == 0).astype(np.int8)
    score = np.clip(0.3 * truth + 0.5 * rng.random(n), 0, 1)
    names = tuple(f"{i}.jpg" for i in range(n))
    texts = {name: tuple(map(str, cells)) for name, cells in columns.items()}
    return Sample(names, truth, score, np.empty((n, 0)), cluster, np.zeros(n, bool), texts, None)


def values(found):
    return [group.value for group in found]


def test_a_group_is_measured_as_if_it_were_alone():
    cluster = np.arange(120) // 2
    of = sample(cluster=cluster, camera=["B", "A", "A"] * 20 + ["B"] * 60)
    (a, b) = subgroups(of, ["camera"], 0.4)
    chosen = np.array(of.columns["camera"]) == "A"
    assert (a.column, a.value, b.value, a.n, a.n_positive) == ("camera", "A", "B", 40, 0)
    assert (a.auc, a.sensitivity) == (None, None)  # no positives
    assert a.specificity == confusion(of.truth[chosen], of.score[chosen], 0.4, cluster[chosen]).specificity
    assert b.auc == auc_delong(of.truth[~chosen], of.score[~chosen], cluster=cluster[~chosen])


def test_without_a_threshold_there_are_no_decisions():
    (group,) = subgroups(sample(camera=["A"] * 120), ["camera"], None)
    assert (group.sensitivity, group.specificity) == (None, None)
    assert group.auc is not None


def test_ages_are_cut_into_decades_and_other_numbers_into_quartiles():
    ages = [41, 49, 50, 108, 9, 7.5, *range(20, 40), *([""] * 94)]
    found = subgroups(sample(age=ages), ["age"], 0.4)
    assert values(found) == ["0-9", "20-29", "30-39", "40-49", "50-59", "100-109", "not stated"]
    assert [group.n for group in found] == [2, 10, 10, 2, 1, 1, 94]
    found = subgroups(sample(pressure=range(120)), ["pressure"], 0.4)
    assert values(found) == ["0 to 29", "30 to 59", "60 to 89", "90 to 119"]
    assert [group.n for group in found] == [30, 30, 30, 30]


def test_quartiles_never_part_equal_numbers():
    found = subgroups(sample(dioptres=[-3.5] * 90 + list(range(30))), ["dioptres"], 0.4)
    assert values(found) == ["-3.5", "0 to 29"]
    assert [group.n for group in found] == [90, 30]


def test_few_numbers_stand_for_themselves_in_their_order():
    found = subgroups(sample(grade=[10, 9, "", 2, 3, -1.5, 4, 5] * 15), ["grade"], 0.4)
    assert values(found) == ["-1.5", "2", "3", "4", "5", "9", "10", "not stated"]


def test_one_text_makes_all_of_them_texts():
    found = subgroups(sample(stage=[*range(12), "early"] * 9 + ["late"] * 3), ["stage"], 0.4)
    assert values(found)[-2:] == ["early", "late"]
    assert len(found) == 14


def test_columns_keep_their_order():
    found = subgroups(sample(sex=["f", "m"] * 60, camera=["A"] * 120), ["sex", "camera"], 0.4)
    assert [(group.column, group.value) for group in found] == [("sex", "f"), ("sex", "m"), ("camera", "A")]


def test_a_missing_column_and_one_of_names_are_sentences():
    of = sample(note=[f"text {i}" for i in range(120)])
    with pytest.raises(UsageError, match=r"no column sex .* Further columns: note."):
        subgroups(of, ["sex"], 0.4)
    with pytest.raises(UsageError, match="note has 120 different texts"):
        subgroups(of, ["note"], 0.4)


def test_words_among_many_numbers_are_named():
    ages = [*range(1, 101), "unknown", "n/a", "nan", "?", *([""] * 16)]
    with pytest.raises(UsageError, match="age has numbers, but for 'unknown', 'n/a', 'nan' and others"):
        subgroups(sample(age=ages), ["age"], 0.4)


def test_texts_that_are_missing_come_last_and_are_said():
    found = subgroups(sample(camera=["zeiss", " ", "Canon", ""] * 30), ["camera"], 0.4)
    assert [(group.value, group.n) for group in found] == [("Canon", 30), ("zeiss", 30), ("not stated", 60)]
