"""PyTorch against the exported graphs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import FundusError
from fundus_eval.parity import Answers, Parity, compare
from fundus_export.pictures import HeldOut, Pictures
from fundus_export.runtime import onnx_answers

N_AGAIN = 32  # held-out photographs that PyTorch answers once more
N_JUDGED = 600  # held-out photographs on which the AUC of an int8 ensemble is judged


class ParityError(FundusError):
    """A graph that does not answer as PyTorch does."""


def verify(
    repository: Path, spec: EnsembleSpec, pictures: Pictures, pytorch: Answers, judged: HeldOut
) -> Iterator[tuple[str, Parity]]:
    """Yield (what was compared on, parity of the graphs in onnxruntime on the CPU).

    Args:
        repository: the exported folds.
        spec: what they are.
        pictures: N images.
        pytorch: what PyTorch answers to them now.
        judged: for int8, whose limit is an AUC: photographs that the run itself has scored.
    """
    yield "images", _parity(repository, spec, pictures, pytorch)
    if spec.precision == "int8":
        yield "inner test", _parity(repository, spec, judged.pictures, judged.recorded)


def _parity(repository: Path, spec: EnsembleSpec, pictures: Pictures, pytorch: Answers) -> Parity:
    found = onnx_answers(repository, spec, pictures.pixels)
    alone = onnx_answers(repository, spec, pictures.pixels, batch=1)
    return compare(spec, pytorch, found, pictures.truth, [alone])


def demand(parities: Sequence[tuple[str, Parity]]) -> None:
    """Refuse graphs that break a limit of their precision.

    Raises:
        ParityError: which limits are broken, and by how much.
    """
    broken = [(name, parity) for name, parity in parities if parity.broken]
    if broken:
        said = "\n".join(f"{name:<12}{line}" for name, parity in broken for line in parity.lines())
        hint = "Try another precision, or another version of torch or onnxruntime."
        raise ParityError(f"The graphs do not answer as PyTorch does. {hint}\n{said}")
