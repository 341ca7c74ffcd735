"""Options that several commands share, and what they read."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from fundus_core.console import FOLDER, say
from fundus_core.ensemble import CutOff, EnsembleSpec
from fundus_core.errors import UsageError
from fundus_core.reading import read_labels, read_scores
from fundus_core.tables import Joined, ScoreTable, join
from fundus_eval.origin import label_index, origin_of
from fundus_eval.study import Rule, Unit

F = TypeVar("F", bound=Callable[..., Any])
GIVEN = "given"  # the rule of a threshold that the user names
PRIVATE = ("patient_id", "image_id")  # no labels and no subgroups


class Share(click.FloatRange):
    """A number of 0-1; click's own range lets "nan" pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is no number of 0-1.", param, ctx)
        return number


TABLE = click.Path(path_type=Path)
SCORES = click.argument("scores", type=TABLE)
LABELS = click.argument("labels", type=TABLE)
LABEL = click.option(
    "--label", "names", multiple=True, help="A column of LABELS; repeatable. [default: as in the scores]"
)
BUNDLE = click.option(
    "--bundle",
    type=FOLDER,
    help="The model repository that made the scores. [default: as run.json beside them says]",
)
THRESHOLD = click.option(
    "--threshold", type=Share(0, 1), help="Decide from here upwards. [default: the bundle's own]"
)
UNIT = click.option(
    "--unit",
    default="image",
    show_default=True,
    type=click.Choice(get_args(Unit)),
    help="What counts once. An eye or a patient has one score.",
)
RULE = click.option(
    "--rule",
    default="mean",
    show_default=True,
    type=click.Choice(get_args(Rule)),
    help="What makes one score of several images of a unit.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")


@dataclass(frozen=True)
class Question:
    """Scores and labels that were read, and the ensemble that made the scores, or why it is not known."""

    table: ScoreTable
    joined: Joined
    spec: EnsembleSpec | None
    doubt: str | None

    def cut_offs(self, threshold: float | None) -> tuple[CutOff, ...]:
        """Return the thresholds of the joined labels, the one that decides first, or none."""
        if threshold is not None:
            return (CutOff(GIVEN, (threshold,) * len(self.joined.labels)),)
        if self.spec is None:
            return ()
        found = self.spec.cut_offs or (CutOff("decision", self.spec.thresholds),)
        rows = [label_index(self.spec, label) for label in self.joined.labels]
        return tuple(CutOff(each.rule, tuple(each.thresholds[row] for row in rows)) for each in found)


def read_question(
    scores: Path,
    labels: Path,
    names: Sequence[str],
    bundle: Path | None = None,
    columns: Sequence[str] = (),
) -> Question:
    """Read and join two tables; `columns` are further ones of the labels. Say where the ensemble is unknown.

    Raises:
        LabelsError: the labels cannot be read, or have no id in common with the scores.
        UsageError: the scores cannot be read, or a column holds ids.
        BundleError: `bundle` did not make them.
    """
    if private := sorted({*names, *columns} & {*PRIVATE}):
        raise UsageError(f"{private[0]} names people or images: it is no label and makes no subgroups.")
    table = read_scores(scores)
    origin = origin_of(scores, table, bundle)
    if origin.doubt:
        say(f"Warning: {origin.doubt}")
    known = table.labels or (origin.spec.labels if origin.spec else ("glaucoma",))
    truth = read_labels(labels, tuple(dict.fromkeys(names)) or known, tuple(dict.fromkeys(columns)))
    return Question(table, join(table, truth), origin.spec, origin.doubt)


def question_options(command: F) -> F:
    """Give a command the tables and options of one question: what is asked of which ensemble, and of whom."""
    for option in (RULE, UNIT, THRESHOLD, BUNDLE, LABEL, LABELS, SCORES):
        command = option(command)
    return command
