"""Bundles whose weights are no weights: for what happens to files, before any server."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner, Result
from tests.conftest import bare_spec

from fundus_core.ensemble import ENSEMBLE_MODEL, EnsembleSpec, write_manifest
from fundus_core.repository import digests, write_settings
from fundus_core.serving import Serving
from fundus_export.cli import main
from fundus_export.live import read_live

WEIGHTS = "fundus_fold_0/1/model.onnx"


def bundle(folder: Path, version: str, serving: Serving | None = None) -> EnsembleSpec:
    """Write a repository whose weights are no weights; return its spec."""
    (folder / WEIGHTS).parent.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_text(f"weights {version}")
    spec = replace(bare_spec(1), version=version, files=digests(folder, iter([folder / WEIGHTS])))
    write_manifest(spec, folder)
    write_settings(folder, spec, serving or Serving())
    return spec


def add_plan(fold: Path) -> None:
    """Put a plan beside the weights, which is none, and the part of its record that is checked."""
    (fold / "1/model.plan").write_text("plan")
    record = {"plan_sha256": hashlib.sha256(b"plan").hexdigest()}
    (fold / "1/model.plan.json").write_text(json.dumps(record))


def run(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


def suffix(live: Path) -> str:
    return str(read_live(live).active).removeprefix(ENSEMBLE_MODEL)
