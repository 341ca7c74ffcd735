"""The documents say what the program does: commands, options, codes, keys, numbers, links."""

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner
from tests.conftest import bare_spec

from fundus_client import batch, member, pool, window
from fundus_client.checkup.consultation import EXPIRES_SOON
from fundus_client.cli import main
from fundus_client.commands.pacs import pacs
from fundus_client.run import Findings, RunSummary, run_record
from fundus_core.errors import (
    EXIT_SOME_FAILED,
    IMAGE_REASONS,
    FundusError,
    ServerReason,
    ServerUnreachableError,
    UsageError,
)
from fundus_core.images import DEFAULT_LIMITS
from fundus_core.quality import LIMITS, Quality, ungradable
from fundus_eval.cli import main as fundus_eval

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "docs" / "client.md"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
HELP = re.compile(r"(?<=<!-- help -->\n).*?(?=<!-- end of help -->)", re.DOTALL)
WIDTH = 100
REFRESH = "Stale. Refresh it with: python -m pytest tests/test_docs.py --refresh-docs"


def section(title: str) -> str:
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", CLIENT.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


def first_column(text: str, table: int = 0) -> list[str]:
    """The codes in the first column of a section's table, without its head."""
    tables = [
        block.splitlines()[2:] for block in re.split(r"\n{2,}|(?<=\n)(?!\|)", text) if block.startswith("|")
    ]
    return [cell.strip("` ") for row in tables[table] for cell in row.split("|")[1].split(",")]


def help_of(group: click.Group, program: str, name: str) -> str:
    done = CliRunner().invoke(group, [name, "--help"], prog_name=program, terminal_width=WIDTH)
    return f"### {name}\n```console\n$ {program} {name} --help\n{done.output}```\n"


@pytest.mark.parametrize(
    ("document", "group", "program"),
    [
        ("client.md", main, "fundus-client"),
        ("pacs.md", pacs, "fundus-client pacs"),
        ("evaluation.md", fundus_eval, "fundus-eval"),
    ],
)
def test_every_help_text_is_in_the_documents(
    document: str, group: click.Group, program: str, request: pytest.FixtureRequest
) -> None:
    path = ROOT / "docs" / document
    text = path.read_text()
    fresh = HELP.sub(lambda _: "\n".join(help_of(group, program, name) for name in group.commands), text)
    if request.config.getoption("--refresh-docs"):
        path.write_text(fresh)
        return
    assert text == fresh, REFRESH


def test_every_reason_is_explained() -> None:
    assert first_column(section("Reasons")) == [*IMAGE_REASONS, *get_args(ServerReason)]


def test_every_doubt_about_a_photograph_is_explained() -> None:
    worst = (Quality(0, 0, 0, 0, 0, 0), Quality(1, 0, 0, 0, 0, 0), Quality(1, 9999, 0, 0, 0, 0))
    said = "; ".join(map(ungradable, (*worst, Quality(1, 9999, 1, 1, 1, 9999))))
    assert first_column(section("Reasons"), table=1) == re.findall(r"[a-z_]+", said)


def test_every_exit_code_is_explained() -> None:
    errors = (FundusError, UsageError, ServerUnreachableError)
    codes = sorted({0, EXIT_SOME_FAILED, *(error.exit_code for error in errors)})
    assert first_column(section("Exit codes")) == [str(code) for code in codes]


def test_every_key_of_run_json_is_explained() -> None:
    summary = RunSummary(1, 1, 0, 0, {}, 1.0)
    record = run_record({}, bare_spec(1), summary, Findings(1.0, (), None))
    assert first_column(section("run.json")) == list(record)
    for name in (*record["counts"], *record["bundle"]):
        assert f"`{name}`" in section("run.json")


@pytest.mark.parametrize(
    ("title", "fact"),
    [
        ("Reasons", f"more than {DEFAULT_LIMITS.max_bytes // 2**20} MB"),
        ("Reasons", f"{DEFAULT_LIMITS.max_pixels // 10**6} million pixels"),
        ("Reasons", f"a side of more than {DEFAULT_LIMITS.max_side_px:,}"),
        ("Reasons", f"fell silent {pool.TOGETHER + pool.ALONE} times"),
        ("Reasons", f"fewer than {LIMITS.min_field_px:g} pixels"),
        ("Interrupted, and going on", f"up to {batch.SETTLE_S:g} seconds"),
        ("Several servers", f"from {member.FIRST_PAUSE_S:g} to {member.LONGEST_PAUSE_S:g} seconds"),
        ("Several servers", f"broke {pool.TOGETHER} times"),
        ("Several servers", f"breaks {pool.ALONE} times"),
        ("Tuning", f"start with {window.START:g} images"),
        ("Tuning", f"`--in-flight` ({member.Patience().in_flight})"),
        ("Tuning", f"Up to {batch.MAX_BYTES // 2**20} MB of files"),
        (r"Is everything there\?", f"within {EXPIRES_SOON.days} days"),
    ],
)
def test_numbers_are_those_of_the_program(title: str, fact: str) -> None:
    assert fact in " ".join(section(title).split())


def console_lines(path: Path) -> Iterator[str]:
    """What the document's console blocks type, a command with its continuation on one line."""
    for block in re.findall(r"```(?:console|shell)\n(.*?)```", path.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield line.removeprefix("$ ")


def calls(path: Path) -> Iterator[list[str]]:
    """Every call of one of our four commands, as words."""
    for line in console_lines(path):
        for call in re.split(r"[|;]|&&", line):
            words = shlex.split(call, comments=True)
            if words and re.fullmatch(r"fundus-(client|train|export|eval)", words[0]):
                yield words


CALLS = [(path.name, call) for path in DOCUMENTS for call in calls(path)]


@pytest.mark.parametrize(("name", "call"), CALLS, ids=[f"{name}: {' '.join(call)}" for name, call in CALLS])
def test_every_command_in_the_documents_exists_with_its_options(name: str, call: list[str]) -> None:
    command, words = import_module(f"{call[0].replace('-', '_')}.cli").main, iter(call[1:])
    while isinstance(command, click.Group) and not (word := next(words)).startswith("-"):
        command = command.commands[word]
    context = click.Context(command)
    known = {text for each in command.get_params(context) for text in (*each.opts, *each.secondary_opts)}
    given = {word.partition("=")[0] for word in call[1:] if re.match(r"--?[a-z]", word)}
    assert given <= known, f"{name} names {given - known}"


def anchors(path: Path) -> set[str]:
    """GitHub's anchors of a document's headings."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINKS = [
    (path, target)
    for path in DOCUMENTS
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text())
]


@pytest.mark.parametrize(("path", "target"), LINKS, ids=[f"{path.name}: {target}" for path, target in LINKS])
def test_every_link_leads_somewhere(path: Path, target: str) -> None:
    name, _, anchor = target.partition("#")
    place = path.parent / name if name else path
    assert place.exists()
    if anchor:
        assert anchor in anchors(place)
