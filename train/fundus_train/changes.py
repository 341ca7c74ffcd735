"""What one try changes of another: the AUC on each left-out source, paired on the same images."""

from collections.abc import Sequence
from pathlib import Path

from fundus_core.errors import BundleError, LabelsError, UsageError
from fundus_core.reading import read_labels, read_scores
from fundus_core.tables import Joined, join
from fundus_eval.comparison import compare_aucs
from fundus_train.experiments import SPLIT, Figure, Run, find_runs

Changes = dict[str, Figure]  # column -> change, low, high


def changes_against(folder: Path, runs: Sequence[Run]) -> dict[Path, Changes]:
    """Return by folder what each finished run of `fundus-train unseen` changes of the one in `folder`.

    By the first label, with DeLong's paired interval; several images of a patient count as such.

    Raises:
        UsageError: `folder` holds no finished run of `fundus-train unseen`.
        BundleError: that run does not say which image is whose.
    """
    base = next((run for run in find_runs([folder]) if run.folder == folder and _sources(run)), None)
    if base is None:
        hint = "Choose one for --against."
        raise UsageError(f"'{folder}' holds no finished run of `fundus-train unseen`. {hint}")
    if not (folder / SPLIT).exists():
        hint = "Run the same command again; it trains nothing anew."
        raise BundleError(f"'{folder}' has no {SPLIT}: an earlier version made it. {hint}")
    others = [run for run in runs if run.folder.resolve() != folder.resolve()]
    return {run.folder: _changes(base, run) for run in others}


def _sources(run: Run) -> list[str]:
    return [each["source"] for each in run.summary.get("sources", ())]


def _changes(base: Run, run: Run) -> Changes:
    found: Changes = {}
    if run.recipe.labels[:1] != base.recipe.labels[:1]:
        return found
    for source in _sources(run):
        if source in _sources(base):
            (of_label,) = compare_aucs(_joined(base, base, source), _joined(run, base, source))
            change = of_label.difference
            found[f"AUC change({source})"] = (change.value, change.low, change.high)
    return found


def _joined(run: Run, base: Run, source: str) -> Joined:
    """Return the scores of a left-out source with the labels and patients of `base`."""
    truth = read_labels(base.folder / SPLIT, base.recipe.labels[:1])
    try:
        return join(read_scores(run.folder / f"{source}.csv"), truth)
    except LabelsError as error:
        raise LabelsError(f"'{run.folder}' against '{base.folder}': {error}") from None
