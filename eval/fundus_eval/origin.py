"""Which ensemble made a table of scores: `run.json` beside it holds the whole manifest."""

import json
from dataclasses import dataclass
from pathlib import Path

from fundus_core.ensemble import EnsembleSpec, read_manifest
from fundus_core.errors import BundleError, FundusError
from fundus_core.files import run_json_path
from fundus_core.tables import ScoreTable


@dataclass(frozen=True)
class Origin:
    """The ensemble that made a table; where it is not known though the scores name one, a sentence why."""

    spec: EnsembleSpec | None
    doubt: str | None = None


def origin_of(path: Path, scores: ScoreTable, bundle: Path | None) -> Origin:
    """Return the ensemble that made `scores`: of the model repository `bundle`, else of run.json beside them.

    The scores of another tool name none, and leave no doubt.

    Raises:
        BundleError: `bundle` is another ensemble than the one whose digest the scores carry.
    """
    if bundle:
        return Origin(_checked(path, scores, read_manifest(bundle)))
    if scores.bundle is None:
        return Origin(None)
    record = run_json_path(path)
    found = _recorded(record)
    if isinstance(found, EnsembleSpec) and found.digest == scores.bundle:
        return Origin(found)
    why = found if isinstance(found, str) else "belongs to other scores"
    hint = "thresholds, calibrators and the training are not known. Give --bundle."
    return Origin(None, f"{record.name} beside {path.name} {why}: {hint}")


def label_index(spec: EnsembleSpec, label: str) -> int:
    """Return which of an ensemble's labels a column of a labels table is: the only one has any name there."""
    return spec.labels.index(label) if len(spec.labels) > 1 else 0


def _checked(path: Path, scores: ScoreTable, spec: EnsembleSpec) -> EnsembleSpec:
    if spec.digest != scores.bundle:
        made = f"the bundle {scores.bundle[:12]}" if scores.bundle else "no bundle that they name"
        hint = "Give the repository that made it."
        raise BundleError(f"{path} was made by {made}, not by {spec.title}. {hint}")
    return spec


def _recorded(path: Path) -> EnsembleSpec | str:
    """Return the ensemble that a run.json names, or what is wrong with it."""
    try:
        return EnsembleSpec.from_json(json.dumps(json.loads(path.read_bytes())["manifest"]))
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError, KeyError, TypeError, FundusError):
        return "cannot be read"
