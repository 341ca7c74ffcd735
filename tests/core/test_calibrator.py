import numpy as np
import pytest

from fundus_core.calibrator import Calibrator
from fundus_core.errors import BundleError


def test_a_temperature_of_1_changes_nothing_and_a_higher_one_makes_modest():
    scores = np.array([0.0, 0.01, 0.5, 0.8, 1.0])
    np.testing.assert_allclose(Calibrator("temperature").of(scores), scores, atol=2e-7)
    modest = Calibrator("temperature", temperature=2).of(scores)
    assert modest[3] == pytest.approx(2 / 3)  # odds 4, whose root is 2
    assert modest[2] == pytest.approx(0.5)
    assert (np.diff(modest) > 0).all()
    assert np.isfinite(modest).all()


def test_knots_are_joined_by_lines_and_hold_outside():
    found = Calibrator("isotonic", scores=(0.2, 0.6), probabilities=(0.1, 0.5)).of(np.array([0.0, 0.4, 1.0]))
    assert found.tolist() == pytest.approx([0.1, 0.3, 0.5])


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "temperature", "temperature": 0.0},
        {"method": "temperature", "temperature": float("inf")},
        {"method": "isotonic"},
        {"method": "isotonic", "scores": (0.1, 0.1), "probabilities": (0.1, 0.2)},
        {"method": "isotonic", "scores": (0.1, 0.2), "probabilities": (0.2, 0.1)},
        {"method": "isotonic", "scores": (0.1, 0.2), "probabilities": (0.2, 1.1)},
        {"method": "isotonic", "scores": (0.1,), "probabilities": (0.2, 0.3)},
    ],
)
def test_what_is_no_monotone_map_is_refused(wrong):
    with pytest.raises(BundleError, match="calibrator"):
        Calibrator(**wrong)
