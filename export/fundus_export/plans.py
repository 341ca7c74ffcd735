"""The folds of a model repository -> TensorRT plans beside their ONNX files, built where they will serve.

    <fold>/1/model.onnx
    <fold>/1/model.plan         what Triton serves with --model-config-name tensorrt
    <fold>/1/model.plan.json    what it was built from, by what and for which shapes: `PlanRecord`
    timing-….cache              what the builder measured, so that the next build is quicker

Only folds become plans; the average of the folds stays on onnxruntime.
"""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fundus_core.ensemble import MODEL_ONNX, PIXELS, EnsembleSpec, fold_model
from fundus_core.errors import BundleError, UsageError
from fundus_core.provenance import sha256_of
from fundus_core.repository import PLAN, RECORD
from fundus_core.schema import build
from fundus_export.engine import INSTEAD, Backend, Profile, build_engine, write_whole
from fundus_export.toolchain import Toolchain, this_toolchain

Say = Callable[[str], None]
Report = Callable[[int, float], None]


@dataclass(frozen=True)
class PlanRecord:
    """How a plan was made. Digests are SHA-256 (hex)."""

    toolchain: Toolchain
    profile: Profile
    onnx_sha256: str
    plan_sha256: str
    seconds: float


def fold_profile(spec: EnsembleSpec, opt_batch: int, max_batch: int) -> Profile:
    """Return the profile of a fold's pixels (N, S, S, 3) for N from 1 to `max_batch`.

    A fold stacks its views on the batch: resnest50d in fp32 with 4 views at 512 px needs 7 GB of scratch
    memory for 32 images, in fp16 half of that. So the largest batch is 8 unless serving.json says more.

    Raises:
        UsageError: not 1 <= `opt_batch` <= `max_batch`, or an ensemble of integers.
    """
    if spec.precision == "int8":
        hint = "Export it with --precision fp16, or serve it by onnxruntime (config.pbtxt)."
        raise UsageError(f"This ensemble's int8 is for CPUs; TensorRT cannot build it. {hint}")
    size_px = spec.preprocess.size_px
    return Profile(PIXELS, *((batch, size_px, size_px, 3) for batch in (1, opt_batch, max_batch)))


def build_plans(
    repository: Path, spec: EnsembleSpec, profile: Profile, backend: Backend, say: Say, report: Report
) -> None:
    """Build the plan of every fold that has none, or one that is not for this machine.

    Args:
        repository: the model repository of `spec`.
        spec: says which folds there are.
        profile: see `fold_profile`.
        backend: the package that builds.
        say: is told one line for each fold: whether it is built, and why.
        report: is told (fold, share of its build that is done).

    Raises:
        MissingExtraError: the package is not installed.
        EngineError: see `build_engine`; the plans of earlier folds stay.
        BundleError: a fold has no ONNX file.
        UsageError: the repository cannot be written.
    """
    toolchain = this_toolchain(backend)
    for index, onnx in _graphs(repository, spec):
        reason = stale_reason(onnx, toolchain, profile)
        if reason is None:
            say(f"fold {index}: its plan is up to date")
            continue
        verb = "rebuilding" if onnx.with_name(PLAN).exists() else "building"
        say(f"fold {index}: {verb}, because {reason}")
        _build(onnx, _timing_cache(repository, toolchain), toolchain, profile, _of_fold(index, report))


def check_graphs(
    repository: Path, spec: EnsembleSpec, profile: Profile, backend: Backend, say: Say, report: Report
) -> None:
    """Build every fold for nothing but the proof that it can be built; see `build_plans`."""
    for index, onnx in _graphs(repository, spec):
        with tempfile.TemporaryDirectory() as folder:
            build_engine(onnx, Path(folder) / PLAN, profile, backend, report=_of_fold(index, report))
        say(f"fold {index}: parses, is strongly typed, fits its profile")


def stale_reason(onnx: Path, toolchain: Toolchain, profile: Profile) -> str | None:
    """Return why the plan beside `onnx` has to be built, or None where it is right.

    Raises:
        BundleError: there is no ONNX file.
    """
    plan = onnx.with_name(PLAN)
    if not plan.is_file():
        return "there is no plan yet"
    try:
        record = read_record(plan)
    except BundleError:
        return f"its plan has no readable record ({RECORD})"
    return next(_differences(record, PlanRecord(toolchain, profile, _sha256(onnx), _sha256(plan), 0)), None)


def _differences(made: PlanRecord, wanted: PlanRecord) -> Iterator[str]:
    if made.toolchain.tensorrt != wanted.toolchain.tensorrt:
        yield f"its plan was made by {made.toolchain.tensorrt} and this is {wanted.toolchain.tensorrt}"
    if made.toolchain.gpu != wanted.toolchain.gpu:
        there, here = (each.toolchain.gpu or "no GPU" for each in (made, wanted))
        yield f"its plan was made on {there} and this machine has {here}"
    if made.onnx_sha256 != wanted.onnx_sha256:
        yield "its plan was made from another model.onnx"
    if made.profile != wanted.profile:
        yield f"its plan was made for {made.profile} and {wanted.profile} is asked for"
    if made.plan_sha256 != wanted.plan_sha256:
        yield f"its plan is not the one that {RECORD} describes"


def read_record(plan: Path) -> PlanRecord:
    """Return the record beside a plan.

    Raises:
        BundleError: there is none, or it cannot be read.
    """
    path = plan.with_name(RECORD)
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BundleError(f"'{path}' cannot be read ({error}). Build the plan again.") from None
    return build(PlanRecord, data, BundleError, RECORD)


def _build(
    onnx: Path, cache: Path | None, toolchain: Toolchain, profile: Profile, report: Callable[[float], None]
) -> None:
    """Write a plan and its record; whenever this ends, no plan lies beside the record of another."""
    plan = onnx.with_name(PLAN)
    if not os.access(plan.parent, os.W_OK):
        raise UsageError(f"'{plan.parent}' cannot be written. Allow it, or copy the repository.")
    partial = plan.with_name(f"{PLAN}.partial")
    digest, started = _sha256(onnx), time.monotonic()
    try:
        build_engine(onnx, partial, profile, toolchain.backend, cache, report)
        seconds = round(time.monotonic() - started, 1)
        record = PlanRecord(toolchain, profile, digest, _sha256(partial), seconds)
        plan.unlink(missing_ok=True)
        write_whole(plan.with_name(RECORD), f"{json.dumps(asdict(record), indent=2)}\n".encode())
        partial.replace(plan)
    finally:
        partial.unlink(missing_ok=True)


def _timing_cache(repository: Path, toolchain: Toolchain) -> Path | None:
    """Return the cache of this version and GPU; TensorRT-RTX measures nothing."""
    if toolchain.backend == "tensorrt_rtx":
        return None
    name = re.sub(r"[^\w.]+", "-", f"{toolchain.version}-{toolchain.gpu or ''}").strip("-")
    return repository / f"timing-{name}.cache"


def _graphs(repository: Path, spec: EnsembleSpec) -> list[tuple[int, Path]]:
    return [(fold.index, repository / fold_model(fold.index) / MODEL_ONNX) for fold in spec.folds]


def _of_fold(index: int, report: Report) -> Callable[[float], None]:
    return lambda share: report(index, share)


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise BundleError(f"'{path}' cannot be read ({error.strerror}). {INSTEAD}") from None
