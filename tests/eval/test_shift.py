from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2, ks_2samp

from fundus_core.ensemble import Distribution
from fundus_core.quality import MEASURES
from fundus_core.tables import ScoreTable
from fundus_eval.shift import _chi_square_limit, distributions, shift_warnings, shifts

RNG = np.random.default_rng(0)


def table(n, brightness=0.5, size=1890.0, seed=0):
    rng = np.random.default_rng(seed)
    score = rng.beta(2, 3, n)
    quality = rng.normal(size=(n, len(MEASURES))).astype(np.float32)
    quality[:, MEASURES.index("brightness")] += brightness
    quality[:, MEASURES.index("field_px")] = size
    every = np.ones(n, bool)
    return ScoreTable(
        tuple(map(str, range(n))), every, score[:, None], score[:, None, None], ~every, None, quality=quality
    )


TRAINING = distributions(table(2000), ("glaucoma",))


def test_each_score_and_measure_has_its_tenths():
    assert [each.measure for each in TRAINING] == ["score:glaucoma", *MEASURES]
    score = TRAINING[0]
    assert (score.n, len(score.edges), score.shares) == (2000, 9, (0.1,) * 10)
    size = next(each for each in TRAINING if each.measure == "field_px")
    assert (size.edges, size.shares, size.median) == ((1890.0,), (0.0, 1.0), 1890.0)


def test_images_like_those_of_the_training_are_rarely_called_shifted():
    for n in (15, 100, 1000):
        tables = [table(n, seed=seed) for seed in range(1, 41)]
        called = sum(each.shifted for new in tables for each in shifts(TRAINING, new, ("glaucoma",)))
        assert called <= 10  # of 280, of which 1 in 100 is expected


@pytest.mark.parametrize("n", [30, 1000])
def test_darker_and_smaller_images_are_found_and_named(n):
    found = shifts(TRAINING, table(n, brightness=-1.5, size=400, seed=1), ("glaucoma",))
    assert {each.measure for each in found if each.shifted} == {"brightness", "field_px"}
    (line,) = shift_warnings(found)
    assert "field_px (median 400, there 1.89e+03; PSI" in line
    assert line.endswith("may not hold here: measure on labelled photographs like these.")
    assert not list(shift_warnings(shifts(TRAINING, table(n, seed=2), ("glaucoma",))))


def test_the_index_is_that_of_its_definition():
    training = Distribution("score:glaucoma", 100, 0.5, (0.5,), (0.8, 0.2))
    new = table(4)
    new = replace(new, probability=np.array([[0.1], [0.5], [0.6], [0.7]]))
    (found,) = shifts((training,), new, ("glaucoma",))
    assert found.psi == pytest.approx((0.25 - 0.8) * np.log(0.25 / 0.8) + (0.75 - 0.2) * np.log(0.75 / 0.2))
    assert found.median == pytest.approx(0.55)


def test_what_is_not_known_of_new_images_is_left_out():
    without = replace(table(50), quality=None)
    assert [each.measure for each in shifts(TRAINING, without, ("glaucoma",))] == ["score:glaucoma"]
    assert shifts((), table(50), ("glaucoma",)) == ()


def test_where_every_file_failed_there_is_nothing_to_compare():
    new = table(3)
    nothing = np.full((3, 1), np.nan)
    lost = replace(new, scored=np.zeros(3, bool), probability=nothing, quality=new.quality * np.nan)
    assert shifts(TRAINING, lost, ("glaucoma",)) == ()


def test_failed_files_are_no_part_of_it():
    new = table(50)
    failed = np.arange(50) % 2 == 0
    for numbers in (new.probability, new.quality):
        numbers[failed] = np.nan
    new = replace(new, scored=~failed)
    assert all(np.isfinite(each.psi) for each in shifts(TRAINING, new, ("glaucoma",)))


def test_the_index_orders_shifts_as_kolmogorov_and_smirnov_do():
    base = RNG.normal(size=3000)
    training = distributions(replace(table(3000), probability=base[:, None]), ("glaucoma",))[:1]
    psi, distance = [], []
    for by in (0.05, 0.3, 0.8, 1.6):
        new = RNG.normal(by, size=800)
        (found,) = shifts(training, replace(table(800), probability=new[:, None]), ("glaucoma",))
        psi.append(found.psi)
        distance.append(ks_2samp(base, new).statistic)
    assert np.argsort(psi).tolist() == np.argsort(distance).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("freedom", [1, 3, 9])
def test_the_limit_of_chance_agrees_with_scipy(freedom):
    assert _chi_square_limit(freedom) == pytest.approx(chi2.ppf(0.99, freedom), rel=0.02)
