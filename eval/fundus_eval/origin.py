"""Which ensemble made a table of scores: `run.json` beside it holds the whole manifest."""

import json
from pathlib import Path

from fundus_core.ensemble import EnsembleSpec, read_manifest
from fundus_core.errors import BundleError, FundusError
from fundus_core.tables import ScoreTable

RUN_JSON = "run.json"


def spec_of(path: Path, scores: ScoreTable, bundle: Path | None) -> EnsembleSpec | None:
    """Return the ensemble that made `scores`: of the model repository `bundle`, else of run.json beside them.

    None where there is neither, as with the scores of another tool.

    Raises:
        BundleError: it is another ensemble than the one whose digest the scores carry.
    """
    spec = read_manifest(bundle) if bundle else _recorded(path.with_name(RUN_JSON))
    if spec is None or spec.digest == scores.bundle:
        return spec
    if bundle is None:  # a run.json of other scores
        return None
    made = f"the bundle {scores.bundle[:12]}" if scores.bundle else "no bundle that they name"
    raise BundleError(f"{path} was made by {made}, not by {spec.title}. Give the repository that made it.")


def _recorded(path: Path) -> EnsembleSpec | None:
    try:
        return EnsembleSpec.from_json(json.dumps(json.loads(path.read_text())["manifest"]))
    except (OSError, ValueError, KeyError, TypeError, FundusError):
        return None
