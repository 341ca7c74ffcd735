"""The report's table of experiments, made from the run folders on disk. Needs no PyTorch."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fundus_core.errors import BundleError, UsageError
from fundus_core.schema import build
from fundus_core.sheet import csv_line
from fundus_train.recipe import Recipe, as_recorded

# written by fundus_train.fit, results and unseen, which nobody can import without PyTorch or scikit-learn
IDENTITY, RUN_JSON, UNSEEN_JSON, SPLIT = "identity.json", "run.json", "unseen.json", "split.csv"

PARTS = {"AUC(CV)": "cross_validation", "AUC(inner_test)": "inner_test"}
LIMITS = ("", " low", " high")

Figure = tuple[float | None, float | None, float | None]  # value, low, high
Row = dict[str, str]  # column -> cell
NO_CHANGES: Mapping[Path, Mapping[str, Figure]] = {}


@dataclass(frozen=True)
class Run:
    """One run folder of `fundus-train fit`, a round of pseudo-labels inside one, or one of `unseen`.

    Args:
        folder: where it lies.
        name: the recipe's name, and the round's folder where it is one.
        recipe: what it was made from.
        labels_sha256: digest of its labels table; "" where the run did not note it.
        revision: of the preprocessing that it was trained and scored with.
        summary: the content of run.json or unseen.json; empty where the run has not finished.
    """

    folder: Path
    name: str
    recipe: Recipe
    labels_sha256: str
    revision: int
    summary: Mapping[str, Any]

    @property
    def figures(self) -> dict[str, Figure]:
        """AUC(CV), AUC(inner_test), and the AUC on each left-out source; of several labels, the mean."""
        found = {name: self.summary.get(part) or {} for name, part in PARTS.items()}
        aucs = {
            name: (each.get("auc_macro", each.get("auc")), each.get("auc_low"), each.get("auc_high"))
            for name, each in found.items()
        }
        unseen = {f"AUC(unseen {each['source']})": each["auc"] for each in self.summary.get("sources", ())}
        return aucs | {name: (each["value"], each["low"], each["high"]) for name, each in unseen.items()}


def find_runs(folders: Iterable[Path]) -> tuple[Run, ...]:
    """Return every run in and below `folders`, sorted by path.

    Raises:
        UsageError: there is none.
        BundleError: one was made by another version.
    """
    folders = tuple(folders)
    found = {path.parent for folder in folders for path in folder.rglob(IDENTITY)}
    if not found:
        where = ", ".join(f"'{folder}'" for folder in folders)
        raise UsageError(f"There is no training run in {where}. Make one with: fundus-train fit")
    return tuple(_run(folder) for folder in sorted(found))


def _run(folder: Path) -> Run:
    identity = _json(folder / IDENTITY)
    summary = _json(folder / RUN_JSON) or _json(folder / UNSEEN_JSON)
    content = as_recorded(identity.get("recipe", {}))
    preprocess = dict(content["preprocess"])
    revision = preprocess.pop("revision")  # another one is no mistake: its figures stay what they are
    recipe = build(Recipe, content | {"preprocess": preprocess}, BundleError, str(folder))
    is_round = (folder.parent / IDENTITY).exists()
    name = f"{recipe.name}/{folder.name}" if is_round else recipe.name
    return Run(folder, name, recipe, identity.get("labels_sha256", ""), revision, summary)


def _json(path: Path) -> dict[str, Any]:
    """Return what a file says; nothing where it isn't there."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BundleError(f"'{path}' cannot be read ({error}). Run the same command again.") from None
    return content


COLUMNS: dict[str, Callable[[Run], object]] = {
    "exp_num": lambda run: run.name,
    "base model": lambda run: run.recipe.network.architecture,
    "scheduler": lambda run: run.recipe.training.scheduler,
    "augmentation": lambda run: _augmentation(run.recipe),
    "test_size": lambda run: f"{run.recipe.split.test_size:g}",
    "label smoothing": lambda run: f"{run.recipe.training.label_smoothing:g}",
    "loss": lambda run: run.recipe.training.loss,
    "lr": lambda run: f"{run.recipe.training.learning_rate:g}",
    "batch": lambda run: run.recipe.training.batch_size * run.recipe.training.accumulate,
    "epochs": lambda run: run.recipe.training.epochs,
    "TTA": lambda run: _views(run.recipe.views),
    "pseudo-label": lambda run: _pseudo_labels(run.summary),
    "time (s)": lambda run: _rounded(run, "seconds", 0),
    "images/s": lambda run: _rounded(run, "images_per_s", 1),
    "n": lambda run: run.summary.get("n_images"),
    "seeds": lambda run: len(run.summary["seeds"]) if "seeds" in run.summary else None,
    "preprocessing": lambda run: f"revision {run.revision}",
    "run": lambda run: run.folder,
}
FIGURES_AT = list(COLUMNS).index("time (s)")


def table_rows(runs: Sequence[Run], changes: Mapping[Path, Mapping[str, Figure]] = NO_CHANGES) -> list[Row]:
    """Return one row for each run, all with the same columns; what is not known is empty.

    `changes` has further figures of each folder, which are written with their sign.
    """
    known = [_cells(run.figures, ".4f") | _cells(changes.get(run.folder, {}), "+.4f") for run in runs]
    columns = dict.fromkeys(name for cells in known for name in cells)
    figures = [{name: cells.get(name, "") for name in columns} for cells in known]
    return [_row(run, cells) for run, cells in zip(runs, figures, strict=True)]


def _cells(figures: Mapping[str, Figure], digits: str) -> Row:
    return {
        name + limit: "" if value is None else format(value, digits)
        for name, figure in figures.items()
        for limit, value in zip(LIMITS, figure, strict=True)
    }


def _row(run: Run, figures: Row) -> Row:
    said = [(name, _text(value(run))) for name, value in COLUMNS.items()]
    return dict([*said[:FIGURES_AT], *figures.items(), *said[FIGURES_AT:]])


def _views(names: tuple[str, ...]) -> str:
    flips = " ".join(name for name in names if name != "identity")
    return flips or "none" if "identity" in names else f"only {flips}"


def _augmentation(recipe: Recipe) -> str:
    sizes = {name: value for name, value in vars(recipe.augment).items() if value and name != "flips"}
    sizes |= {"phantoms": recipe.phantoms.count} if recipe.phantoms.count else {}
    flips = ["flips"] if recipe.augment.flips else []
    return " ".join([*flips, *(f"{name}={value:g}" for name, value in sizes.items())]) or "none"


def _pseudo_labels(summary: Mapping[str, Any]) -> str:
    said = summary.get("pseudo_labels") or {"round": 0}
    if not said["round"]:
        return "none"
    return f"round {said['round']}: {said['n_positive']} positive, {said['n_negative']} negative"


def _rounded(run: Run, key: str, digits: int) -> str | None:
    value = run.summary.get(key)
    return None if value is None else f"{value:.{digits}f}"


def _text(value: object) -> str:
    return "" if value is None else str(value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted keys, a sequence as words."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = " ".join(map(str, value)) if isinstance(value, tuple | list) else value
    return flat


def csv_text(rows: Sequence[Row]) -> str:
    """Return the table as CSV."""
    return "".join(csv_line(cells) for cells in _lines(rows))


def markdown_text(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    header, *rest = ([cell.replace("|", "&#124;") for cell in line] for line in _lines(rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, ["---"] * len(header), *rest))


def _lines(rows: Sequence[Row]) -> list[list[str]]:
    return [list(rows[0]), *(list(row.values()) for row in rows)]


FORMATS = {".csv": csv_text, ".md": markdown_text}


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the table in the format that the suffix of `path` names.

    Raises:
        UsageError: another suffix than .csv or .md, or a file that cannot be written.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"'{path}' ends in no known format. Choose a name in {' or '.join(FORMATS)}.")
    try:
        path.write_text(FORMATS[path.suffix](rows), encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"'{path}' cannot be written: {error.strerror}. Choose another --output.") from None
