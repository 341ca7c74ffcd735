"""Options that several commands share, and what they read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click

from fundus_core.console import FOLDER
from fundus_core.ensemble import CutOff, EnsembleSpec
from fundus_core.reading import read_labels, read_scores
from fundus_core.tables import Joined, ScoreTable, join
from fundus_eval.origin import spec_of
from fundus_eval.study import Rule, Unit

GIVEN = "given"  # the rule of a threshold that the user names
LABEL = click.option(
    "--label", "names", multiple=True, help="A column of LABELS; repeatable. [default: as in the scores]"
)
BUNDLE = click.option(
    "--bundle",
    type=FOLDER,
    help="The model repository that made the scores. [default: as run.json beside them says]",
)
THRESHOLD = click.option(
    "--threshold", type=click.FloatRange(0, 1), help="Decide from here upwards. [default: the bundle's own]"
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
SCORES = click.argument("scores", type=click.Path(path_type=Path))
LABELS = click.argument("labels", type=click.Path(path_type=Path))


@dataclass(frozen=True)
class Question:
    """Scores and labels that were read, and the ensemble that made the scores, where that is known."""

    table: ScoreTable
    joined: Joined
    spec: EnsembleSpec | None

    def cut_offs(self, threshold: float | None) -> tuple[CutOff, ...]:
        """Return the thresholds of the joined labels, the one that decides first, or none."""
        if threshold is not None:
            return (CutOff(GIVEN, (threshold,) * len(self.joined.labels)),)
        if self.spec is None:
            return ()
        chosen = CutOff("decision", self.spec.thresholds)
        found = self.spec.cut_offs or (chosen,)
        rows = self.columns
        return tuple(CutOff(each.rule, tuple(each.thresholds[row] for row in rows)) for each in found)

    @property
    def columns(self) -> list[int]:
        """Where each joined label stands among those of the ensemble."""
        return [self.spec.labels.index(label) for label in self.joined.labels] if self.spec else []


def read_question(
    scores: Path,
    labels: Path,
    names: Sequence[str],
    bundle: Path | None = None,
    columns: Sequence[str] = (),
) -> Question:
    """Read and join two tables; `columns` are further ones of the labels.

    Raises:
        LabelsError: the labels cannot be read, or have no id in common with the scores.
        UsageError: the scores cannot be read.
        BundleError: `bundle` did not make them.
    """
    table = read_scores(scores)
    spec = spec_of(scores, table, bundle)
    known = table.labels or (spec.labels if spec else ("glaucoma",))
    return Question(table, join(table, read_labels(labels, names or known, columns)), spec)
