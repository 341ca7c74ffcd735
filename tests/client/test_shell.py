"""The comfort of a shell: completion, and every option from the environment."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tests.conftest import COMMANDS

from fundus_client.cli import main
from fundus_client.journal import journal_path, open_journal
from fundus_core.files import ImageRef
from fundus_core.rows import ScoreRow

COMPLETE = """
eval "$(_FUNDUS_CLIENT_COMPLETE=bash_source fundus-client)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_fundus_client_completion fundus-client
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["sc"], {"score"}),
        (["score", "--in-"], {"--in-flight"}),
        (["doctor", "--tls-c"], {"--tls-ca", "--tls-cert"}),
    ],
)
def test_bash_completes_commands_and_options(words: list[str], completed: set[str]) -> None:
    line = ["bash", "--norc", "-c", COMPLETE, "bash", "fundus-client", *words]
    path = f"{COMMANDS}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(line, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60)
    assert (done.stderr, set(done.stdout.split())) == ("", completed)


OPTIONS = [
    (command.name, option)
    for command in main.commands.values()
    for option in command.params
    if isinstance(option, click.Option)
]


@pytest.mark.parametrize(
    ("name", "option"), OPTIONS, ids=[f"{name} {max(option.opts, key=len)}" for name, option in OPTIONS]
)
def test_every_option_has_a_variable_of_its_name(name: str, option: click.Option) -> None:
    named = max(option.opts, key=len).lstrip("-").replace("-", "_").upper()
    assert option.envvar == f"FUNDUS_CLIENT_{name.upper()}_{named}"


def run(variables: dict[str, str], *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, arguments, env=variables)
    return done.exit_code, done.output


def test_several_servers_in_one_variable() -> None:
    code, said = run({"FUNDUS_CLIENT_DOCTOR_URL": "127.0.0.1:1 127.0.0.1:2"}, "doctor", "--json")
    assert code == 4
    assert [each["what"].split()[6] for each in json.loads(said)[-2:]] == ["127.0.0.1:1:", "127.0.0.1:2:"]


def test_flags_and_numbers_in_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eye.jpg").write_bytes(b"not read")
    assert run({"FUNDUS_CLIENT_SCORE_DRY_RUN": "1"}, "score", "eye.jpg") == (0, "would score 1 of 1 files\n")
    code, said = run({"FUNDUS_CLIENT_SCORE_IN_FLIGHT": "0"}, "score", "eye.jpg")
    assert code == 2
    assert "'--in-flight'" in said
    assert "0 is not in the range" in said


def test_a_dry_run_knows_what_a_fresh_one_would_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eye.jpg").write_bytes(b"not read")
    ref = ImageRef("eye.jpg", tmp_path / "eye.jpg")
    row = ScoreRow("eye.jpg", "ab" * 32, "failed", "corrupt: It is cut off.", None, None)
    with open_journal(journal_path(tmp_path / "scores.csv"), fresh=False) as journal:
        journal.register([ref])
        journal.record("eye.jpg", ref.stamp(), row)
        journal.commit()
    assert run({}, "score", "eye.jpg", "--dry-run")[1].endswith("would score 0 of 1 files\n")
    before = journal_path(tmp_path / "scores.csv").read_bytes()
    assert run({}, "score", "eye.jpg", "--dry-run", "--fresh") == (0, "would score 1 of 1 files\n")
    assert journal_path(tmp_path / "scores.csv").read_bytes() == before
    code, said = run({}, "score", "eye.jpg", "--dry-run", "--retry-failed")
    assert (code, "--dry-run and --retry-failed exclude each other" in said) == (2, True)


def test_an_argument_beats_a_variable() -> None:
    variables = {"FUNDUS_CLIENT_DOCTOR_URL": "nonsense"}
    assert "nonsense" in run(variables, "doctor")[1]
    assert "nonsense" not in run(variables, "doctor", "--url", "127.0.0.1:1")[1]
