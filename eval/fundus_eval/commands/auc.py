"""`fundus-eval auc`: the AUC and what the threshold gives, in a moment."""

import json
from pathlib import Path
from typing import cast

import click

from fundus_core.console import say
from fundus_core.errors import LabelsError
from fundus_eval.commands.options import JSON, Question, question_options, read_question
from fundus_eval.evaluation import evaluate
from fundus_eval.shift import shift_warnings, shifts
from fundus_eval.study import Rule, Unit
from fundus_eval.text import evaluation_lines

EXAMPLES = """\b
Examples:
  fundus-eval auc scores.csv labels.csv
  fundus-eval auc scores.csv labels.csv --unit patient --rule max --json
  fundus-eval auc others.csv labels.csv --label glaucoma --label amd --threshold 0.5"""


@click.command(epilog=EXAMPLES)
@question_options
@JSON
def auc(
    scores: Path,
    labels: Path,
    names: tuple[str, ...],
    bundle: Path | None,
    threshold: float | None,
    unit: str,
    rule: str,
    as_json: bool,
) -> None:
    """Print the AUC of SCORES against LABELS with its 95 % interval.

    SCORES is the table of `fundus-client score`, or any CSV table with the columns image_id and probability.
    LABELS has image_id and a column of 0 and 1 per label (default: glaucoma). Where it has patient_id, the
    interval allows for several images of one patient; eyes need a column eye (left, right) too.
    """
    asked = read_question(scores, labels, names, bundle)
    points = asked.cut_offs(threshold)
    thresholds = points[0].thresholds if points else None
    found = evaluate(asked.joined, thresholds, cast(Unit, unit), cast(Rule, rule))
    if all(label.auc is None for label in found.labels):
        raise LabelsError(" ".join(label.auc_missing_reason or "" for label in found.labels))
    _warn(asked)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else "\n".join(evaluation_lines(found)))


def _warn(asked: Question) -> None:
    if asked.spec:
        for line in shift_warnings(shifts(asked.spec.training, asked.table, asked.spec.labels)):
            say(f"Warning: {line}")
