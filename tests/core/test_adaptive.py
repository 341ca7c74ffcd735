import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fundus_core.adaptive import Stopping
from fundus_core.backend import code_of
from fundus_core.errors import BundleError

PROBABILITIES = st.floats(0, 1, width=32)
FOLDS = arrays(np.float32, (5, 4, 2), elements=PROBABILITIES)


def of(*probabilities):
    """One image's answers to one label, as (1, J, 1)."""
    return np.array(probabilities, np.float32).reshape(1, -1, 1)


def test_one_plain_answer_is_enough_and_one_near_the_threshold_is_not():
    stopping = Stopping(1.0, (0.5,), 4)
    one_logit_away = 1 / (1 + math.exp(-1))
    decided = [stopping.is_decided(of(one_logit_away + more)).item() for more in (-0.01, 0.01)]
    assert decided == [False, True]
    assert stopping.is_decided(of(1 - one_logit_away - 0.01)).item(), "on the other side as well"


def test_each_further_fold_takes_less_distance():
    stopping = Stopping(1.0, (0.5,), 4)
    needed = [((4 - j) / (3 * j)) ** 0.5 for j in (1, 2, 3)]
    for n_asked, distance in zip((1, 2, 3), needed, strict=True):
        near, far = (1 / (1 + math.exp(-distance * factor)) for factor in (0.99, 1.01))
        assert not stopping.is_decided(of(*[near] * n_asked)).item()
        assert stopping.is_decided(of(*[far] * n_asked)).item()


def test_all_labels_must_be_decided():
    both = Stopping(1.0, (0.5, 0.5), 4)
    assert both.is_decided(np.array([[[0.9, 0.1]], [[0.9, 0.5]]])).tolist() == [True, False]


@given(FOLDS)
def test_an_endless_margin_asks_all_folds(folds):
    assert Stopping(math.inf, (0.5, 0.3), 4).n_asked(folds).tolist() == [4] * 5


@given(FOLDS, st.floats(0.01, 10), st.tuples(PROBABILITIES, PROBABILITIES))
def test_a_larger_margin_never_asks_fewer(folds, margin, thresholds):
    n_asked = [Stopping(each, thresholds, 4).n_asked(folds) for each in (margin, 2 * margin)]
    assert (n_asked[0] <= n_asked[1]).all()
    assert (n_asked[0] >= 1).all()


@pytest.mark.parametrize(("margin", "n_folds"), [(0.0, 4), (-1.0, 4), (math.nan, 4), (1.0, 1)])
def test_nothing_to_stop_by_is_refused(margin, n_folds):
    with pytest.raises(BundleError, match="takes folds and a margin"):
        Stopping(margin, (0.5,), n_folds)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("corrupt: The stream ends before the image does.", "INVALID_ARG"),
        ("[request id: 7] Exceeds maximum queue size", "UNAVAILABLE"),
        ("[request id: 7] Request timeout expired", "UNAVAILABLE"),
        ("division by zero", "INTERNAL"),
    ],
)
def test_a_client_learns_whether_the_image_or_the_server_is_the_trouble(message, code):
    assert code_of(message) == code
