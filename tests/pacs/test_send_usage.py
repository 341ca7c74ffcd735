"""What is wrong with a call of `pacs send`, and what an archive's statuses mean."""

from pathlib import Path

import pytest
from tests.pacs.sending import run

from fundus_client.pacs.send import answer_of


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Name the archive"),
        (("--peer", "A@b:1", "--web", "http://b"), "Name the archive"),
        (("--peer", "nonsense"), "AET@host:port"),
        (("--web", "http://user:secret@b/"), "netrc"),
        (("--web", "http://b", "--commit"), "--commit needs --peer"),
        (("--peer", "A@b:1", "--retry-for", "2 days"), "no duration"),
    ],
)
def test_a_wrong_call_is_a_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    result = run(tmp_path, *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (0x0000, "sent"),
        (0xB006, "sent"),
        (0xA7FF, "later"),
        (0x0110, "later"),
        (0xA900, "refused"),
        (0x0124, "refused"),
    ],
)
def test_what_a_status_means(code: int, outcome: str) -> None:
    assert answer_of(code).outcome == outcome
