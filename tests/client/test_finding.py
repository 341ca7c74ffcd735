"""What a finding says: what is wrong, and what to do."""

import pytest

from fundus_client.checkup.finding import Finding, explained
from fundus_core.errors import BundleError, FundusError, MissingExtraError


@pytest.mark.parametrize(
    ("error", "what", "next_step"),
    [
        (
            BundleError("'b' is broken: a.b was changed. Take another."),
            "'b' is broken: a.b was changed.",
            "Take another.",
        ),
        (
            FundusError("It did not start. Correct its log:\n  a. b"),
            "It did not start.",
            "Correct its log:\n  a. b",
        ),
        (
            FundusError("Too small: take 3"),
            "Too small: take 3.",
            "Correct that, and run `fundus-client doctor` again.",
        ),
        (
            MissingExtraError("embedded", "X"),
            "This needs X.",
            "Install it with: pip install 'fundus-triton[embedded]'",
        ),
    ],
)
def test_an_error_is_split_into_what_and_what_to_do(error: FundusError, what: str, next_step: str) -> None:
    assert explained(error) == Finding("problem", what, next_step)


def test_whatever_is_not_well_has_a_next_step() -> None:
    with pytest.raises(ValueError, match="next step"):
        Finding("problem", "Too small.")
    with pytest.raises(ValueError, match="next step"):
        Finding("ok", "Large.", "Take another.")
