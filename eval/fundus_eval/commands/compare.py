"""`fundus-eval compare`: two tables of scores of the same images."""

import json
from pathlib import Path

import click

from fundus_eval.commands.options import JSON, LABEL, LABELS, TABLE, THRESHOLD, Question, read_question
from fundus_eval.comparison import compare_aucs

EXAMPLES = """\b
Examples:
  fundus-eval compare before.csv after.csv labels.csv
  fundus-eval compare fp32/scores.csv int8/scores.csv labels.csv --json"""


@click.command(epilog=EXAMPLES)
@click.argument("first", type=TABLE)
@click.argument("second", type=TABLE)
@LABELS
@LABEL
@THRESHOLD
@JSON
def compare(
    first: Path, second: Path, labels: Path, names: tuple[str, ...], threshold: float | None, as_json: bool
) -> None:
    """Print the AUC of SECOND minus that of FIRST, with DeLong's paired 95 % interval, and what it decides.

    Both are score tables of the same images, such as those of two ensembles or of one in two precisions.
    Images that only one of them has scored, and those without a label, are left out and counted. Decisions
    are compared where --threshold or run.json beside each table gives their thresholds.
    """
    asked = [read_question(each, labels, names) for each in (first, second)]
    found = compare_aucs(asked[0].joined, asked[1].joined, _thresholds(asked, threshold))
    lines = (line for each in found for line in each.lines())
    click.echo(json.dumps([each.to_json() for each in found], indent=2) if as_json else "\n".join(lines))


def _thresholds(asked: list[Question], threshold: float | None) -> list[tuple[float, float]] | None:
    """Return those of the first and of the second table for each label, where both are known."""
    points = [each.cut_offs(threshold) for each in asked]
    if not all(points):
        return None
    return list(zip(*(each[0].thresholds for each in points), strict=True))
