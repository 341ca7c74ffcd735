"""PyTorch against the exported graphs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import FundusError
from fundus_eval.golden import GRAPHS, held_to, read_golden
from fundus_eval.parity import Answers, Parity, compare, laid_out
from fundus_export.pictures import HeldOut, Pictures, golden_pictures
from fundus_export.runtime import BATCH, onnx_answers

N_AGAIN = 32  # held-out photographs that PyTorch answers once more
N_JUDGED = 600  # held-out photographs on which the AUC of an int8 ensemble is judged
COPIES = 2  # of each picture in a batch, so that batches hold identical rows


class ParityError(FundusError):
    """A graph that does not answer as PyTorch does."""


def verify(
    repository: Path, spec: EnsembleSpec, pictures: Pictures, pytorch: Answers, judged: HeldOut | None
) -> Iterator[tuple[str, Parity]]:
    """Yield (what was compared on, parity of the graphs in onnxruntime on the CPU).

    Args:
        repository: the exported folds.
        spec: what they are.
        pictures: N images.
        pytorch: what PyTorch answers to them now.
        judged: for int8, whose limit is an AUC: photographs that the run itself has scored; else None.

    Raises:
        BundleError: of an int8 repository that has no answers of its graphs.
    """
    alone = onnx_answers(repository, spec, pictures.pixels)
    twice = onnx_answers(repository, spec, np.repeat(pictures.pixels, COPIES, axis=0), COPIES * BATCH)
    repeats = [twice[copy::COPIES] for copy in range(COPIES)]
    yield "images", compare(spec, pytorch, alone, pictures.truth, repeats)
    if judged:
        found = onnx_answers(repository, spec, judged.pictures.pixels)
        yield "inner test", compare(spec, judged.recorded, found, judged.pictures.truth)
        yield "recorded", _repeated(repository, spec)


def _repeated(repository: Path, spec: EnsembleSpec) -> Parity:
    """Return whether the graphs still answer to the golden phantoms as they did at export."""
    recorded = read_golden(repository, spec, None, None).answers[GRAPHS]
    found = onnx_answers(repository, spec, golden_pictures(repository, spec).pixels)
    return compare(spec, recorded, found, limit=held_to(spec.precision)[GRAPHS])


def demand(parities: Sequence[tuple[str, Parity]]) -> None:
    """Refuse graphs that break a limit of their precision.

    Raises:
        ParityError: which limits are broken, and by how much.
    """
    broken = [(name, parity) for name, parity in parities if parity.broken]
    if broken:
        hint = "Try another precision, or another version of torch or onnxruntime."
        raise ParityError(f"The graphs do not answer as PyTorch does. {hint}\n{laid_out(broken)}")
