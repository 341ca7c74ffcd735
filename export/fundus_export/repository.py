"""A training run -> a Triton model repository, the one artefact that is served, compared and shipped."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from fundus_core.ensemble import (
    AVERAGE_MODEL,
    FOLD_PROBABILITY,
    MODEL_ONNX,
    PROBABILITY,
    EnsembleSpec,
    fold_model,
    write_manifest,
)
from fundus_core.errors import UsageError
from fundus_core.reading import read_labels
from fundus_core.repository import TERMS, digests, write_rendered
from fundus_core.serving import Serving
from fundus_eval.golden import GRAPHS, PYTORCH, draw_phantoms, held_to, write_answers
from fundus_eval.parity import Parity, laid_out
from fundus_export.graph import FoldAverage
from fundus_export.onnx import save, traced
from fundus_export.pictures import Own, calibration_pixels, golden_pictures, held_out, own_pictures
from fundus_export.precision import fold_graph
from fundus_export.runtime import onnx_answers, pytorch_answers
from fundus_export.trained import Trained, Wanted, ensemble_spec, load_run
from fundus_export.verify import N_AGAIN, N_JUDGED, demand, verify

N_CALIBRATION = 48

Report = Callable[[str], None]


def export_repository(run: Path, out: Path, wanted: Wanted, report: Report) -> EnsembleSpec:
    """Write the model repository of the finished `run` to `out`, whole or not at all.

    `report` is told what is going on, one line at a time.

    Raises:
        BundleError: the run is not finished, or its folds do not belong together.
        UsageError: `out` is there already.
        ParityError: the graphs break a limit of the precision.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"'{out}' is not empty. Choose a new folder, or delete it first.")
    trained = load_run(run)
    out = out.absolute()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        spec = _write(trained, partial, wanted, report)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return spec


def _write(trained: Trained, out: Path, wanted: Wanted, report: Report) -> EnsembleSpec:
    spec = ensemble_spec(trained, wanted)
    own = read_own(wanted.images, wanted.labels, spec)
    _write_graphs(trained, spec, out, report)
    _write_golden(trained, spec, out, own)
    found = parities(trained, spec, out, own)
    for line in laid_out(found).splitlines():
        report(line)
    demand(found)
    spec = replace(spec, files=digests(out, (path for path in sorted(out.rglob("*")) if path.is_file())))
    write_manifest(spec, out)
    write_rendered(out, spec, Serving())
    if wanted.terms:
        shutil.copyfile(wanted.terms, out / TERMS)
    return spec


def _write_graphs(trained: Trained, spec: EnsembleSpec, out: Path, report: Report) -> None:
    calibration = calibration_pixels(trained.run, trained.recipe, N_CALIBRATION)
    for fold, network in zip(spec.folds, trained.networks, strict=True):
        report(f"fold {fold.index}: {fold.architecture}, {spec.precision}")
        graph = fold_graph(network, spec.view_table, spec.precision, calibration)
        save(graph, out / fold_model(fold.index) / MODEL_ONNX)
    names = [fold_model(fold.index) for fold in spec.folds]
    example = [torch.rand(2, len(spec.labels)) for _ in names]
    average = traced(FoldAverage(), example, names, [PROBABILITY, FOLD_PROBABILITY])
    save(average, out / AVERAGE_MODEL / MODEL_ONNX)


def read_own(images: Path | None, labels: Path | None, spec: EnsembleSpec) -> Own | None:
    """Return the user's own images, where there are any; the errors are those of `own_pictures`."""
    if not images:
        return None
    return own_pictures(images, read_labels(labels, spec.labels) if labels else None, spec)


def _write_golden(trained: Trained, spec: EnsembleSpec, out: Path, own: Own | None) -> None:
    """Write what is answered to the golden phantoms, and to images of the user's own."""
    paths, pictures = draw_phantoms(out), golden_pictures(out, spec)
    if own:
        paths, pictures = paths + own.paths, pictures + own.pictures
    answers = pytorch_answers(trained.networks, spec.view_table, pictures.pixels)
    write_answers(out, spec, paths, PYTORCH, answers)
    if GRAPHS in held_to(spec.precision):
        write_answers(out, spec, paths, GRAPHS, onnx_answers(out, spec, pictures.pixels))


def parities(
    trained: Trained, spec: EnsembleSpec, repository: Path, own: Own | None
) -> list[tuple[str, Parity]]:
    """Compare PyTorch with the graphs on golden phantoms, held-out photographs and the user's own images."""
    again = held_out(trained.run, trained.recipe, N_AGAIN).pictures
    pictures = golden_pictures(repository, spec) + again.unlabelled()  # so few cannot judge an AUC
    if own:
        pictures += own.pictures
    answers = pytorch_answers(trained.networks, spec.view_table, pictures.pixels)
    judged = held_out(trained.run, trained.recipe, N_JUDGED) if spec.precision == "int8" else None
    return list(verify(repository, spec, pictures, answers, judged))
