"""The study that every test of the report shares, and its page."""

import pytest
from tests.eval.studies import study

from fundus_eval.report import report_html
from fundus_eval.study import Study


@pytest.fixture(scope="session")
def whole() -> Study:
    return study()


@pytest.fixture(scope="session")
def html(whole: Study) -> str:
    return report_html(whole, "Inner test", {})
