"""`fundus-eval`: compare a table of scores with a table of labels."""

import json
from pathlib import Path

import click

from fundus_core.console import FundusGroup
from fundus_core.errors import LabelsError
from fundus_core.tables import join, read_labels, read_scores
from fundus_eval.comparison import compare_aucs
from fundus_eval.evaluation import evaluate
from fundus_eval.text import evaluation_lines


@click.group(cls=FundusGroup, epilog="\b\nExample:\n  fundus-eval auc scores.csv labels.csv --threshold 0.5")
@click.version_option(package_name="fundus-triton", prog_name="fundus-eval")
def main() -> None:
    """Say how well scores agree with labels."""


@main.command(
    epilog="""\b
Examples:
  fundus-eval auc scores.csv labels.csv
  fundus-eval auc scores.csv labels.csv --threshold 0.5 --json
  fundus-eval auc scores.csv labels.csv --label glaucoma --label amd
"""
)
@click.argument("scores", type=click.Path(path_type=Path))
@click.argument("labels", type=click.Path(path_type=Path))
@click.option(
    "--label", "names", multiple=True, help="A column of LABELS; repeatable. [default: as in SCORES]"
)
@click.option("--threshold", type=float, help="Also report sensitivity and specificity from here upwards.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def auc(scores: Path, labels: Path, names: tuple[str, ...], threshold: float | None, as_json: bool) -> None:
    """Print the AUC of SCORES against LABELS with its 95 % interval.

    SCORES is the scores.csv of `fundus-client score`, or any CSV table with the columns image_id and
    probability. LABELS has image_id and a column of 0 and 1 per label (default: glaucoma).
    """
    table = read_scores(scores)
    joined = join(table, read_labels(labels, names or table.labels or ("glaucoma",)))
    evaluation = evaluate(joined, None if threshold is None else [threshold] * len(joined.labels))
    if all(label.auc is None for label in evaluation.labels):
        raise LabelsError(" ".join(label.auc_missing_reason or "" for label in evaluation.labels))
    click.echo(
        json.dumps(evaluation.to_json(), indent=2) if as_json else "\n".join(evaluation_lines(evaluation))
    )


@main.command(epilog="\b\nExample:\n  fundus-eval compare before.csv after.csv labels.csv")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.argument("labels", type=click.Path(path_type=Path))
@click.option(
    "--label", "names", multiple=True, help="A column of LABELS; repeatable. [default: as in FIRST]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def compare(first: Path, second: Path, labels: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Print the AUC of SECOND minus that of FIRST, with DeLong's paired 95 % interval.

    Both are score tables of the same images, such as those of two ensembles. Images that only one of them
    has scored, and those without a label, are left out and counted.
    """
    tables = read_scores(first), read_scores(second)
    truth = read_labels(labels, names or tables[0].labels or ("glaucoma",))
    found = compare_aucs(join(tables[0], truth), join(tables[1], truth))
    click.echo(
        json.dumps([each.to_json() for each in found], indent=2) if as_json else "\n".join(map(str, found))
    )
