"""`fundus-eval report`: everything about an evaluation in one HTML file."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import click

from fundus_core.console import FOLDER, say, stderr
from fundus_core.errors import UsageError
from fundus_core.files import run_json_path, whole_file
from fundus_core.provenance import sha256_of, versions_of
from fundus_eval.commands.options import Question, Share, question_options, read_question
from fundus_eval.report import report_html, study_json, write_figures
from fundus_eval.report.thumbnails import thumbnails_of
from fundus_eval.study import Rule, Unit
from fundus_eval.whole import Plan, study

EXAMPLES = """\b
Examples:
  fundus-eval report scores.csv labels.csv --output report.html
  fundus-eval report scores.csv labels.csv --unit patient --subgroup source --subgroup age --prevalence 0.02
  fundus-eval report scores.csv labels.csv --figures figures --json report.json --thumbnails ./images"""


@click.command(epilog=EXAMPLES)
@question_options
@click.option(
    "--output", default="report.html", show_default=True, type=click.Path(path_type=Path), help="To write."
)
@click.option("--figures", type=click.Path(file_okay=False, path_type=Path), help="Also as SVG and PNG here.")
@click.option("--json", "numbers", type=click.Path(path_type=Path), help="Also every number, in this file.")
@click.option("--title", default="Evaluation", show_default=True, help="The report's heading.")
@click.option(
    "--prevalence",
    "prevalences",
    multiple=True,
    default=(0.02, 0.2),
    show_default=True,
    type=Share(0, 1, min_open=True, max_open=True),
    help="Share with the disease, for PPV and NPV; repeatable.",
)
@click.option("--subgroup", "subgroups", multiple=True, help="A column of LABELS to split by; repeatable.")
@click.option(
    "--thumbnails", type=FOLDER, help="Show the most wrong photographs of this folder: they are patients'."
)
@click.option(
    "--resamples", default=2000, show_default=True, type=click.IntRange(100), help="Of the bootstrap."
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the bootstrap's draws."
)
def report(
    scores: Path,
    labels: Path,
    output: Path,
    figures: Path | None,
    numbers: Path | None,
    title: str,
    names: tuple[str, ...],
    bundle: Path | None,
    threshold: float | None,
    unit: str,
    rule: str,
    prevalences: tuple[float, ...],
    subgroups: tuple[str, ...],
    thumbnails: Path | None,
    resamples: int,
    seed: int,
) -> None:
    """Write what SCORES and LABELS say of an ensemble to one HTML file that needs no network.

    It holds the AUC with its interval, operating points, calibration, subgroups, the flow of images and how
    all of it was made. Thresholds and calibrator are those that the bundle fixed before the test.
    """
    _check_files([output, *filter(None, (numbers,))], [scores, labels, run_json_path(scores)])
    asked = read_question(scores, labels, names, bundle, subgroups)
    columns = tuple(asked.joined.table.columns)
    points = asked.cut_offs(threshold)
    plan = Plan(cast(Unit, unit), cast(Rule, rule), points, prevalences, columns, resamples, seed)
    with stderr.status("evaluating"):
        made, notes = _made(asked, plan, scores, labels), tuple(filter(None, [asked.doubt]))
        found = study(asked.joined, asked.table, asked.spec, plan, made, notes)
        shown = thumbnails_of(found, thumbnails) if thumbnails else {}
        if thumbnails and not shown:
            say(f"Warning: none of the most wrong images is in '{thumbnails}': there are no thumbnails.")
        if figures:
            write_figures(found, figures)
        if numbers:
            _write(numbers, json.dumps(study_json(found), indent=2) + "\n")
        _write(output, report_html(found, title, shown))
    click.echo(f"report  {output}")


def _check_files(written: list[Path], read: list[Path]) -> None:
    """Refuse to write over what is read, or two things into one file.

    Raises:
        UsageError: two of them are one file.
    """
    paths = [path.resolve() for path in (*read, *written)]
    twice = [path for path in written if paths.count(path.resolve()) > 1]
    if twice:
        raise UsageError(f"'{twice[0]}' is one of the tables, or written twice. Choose another file.")


def _write(path: Path, text: str) -> None:
    try:
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"'{path}' cannot be written: {error.strerror}. Choose another file.") from None


def _made(asked: Question, plan: Plan, scores: Path, labels: Path) -> dict[str, Any]:
    """Return how it was made, for people. Paths may hold names, so only the last part is kept."""
    bundle = {"name": asked.spec.name, "version": asked.spec.version} if asked.spec else {}
    return {
        "scores": {"file": scores.name, "sha256": sha256_of(scores)},
        "labels": {"file": labels.name, "sha256": sha256_of(labels)},
        "bundle": bundle | {"digest": asked.table.bundle},
        "unit": plan.unit,
        "rule": plan.rule,
        "resamples": plan.resamples,
        "seed": plan.seed,
        "evaluated": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions_of("fundus-triton", "numpy"),
    }
