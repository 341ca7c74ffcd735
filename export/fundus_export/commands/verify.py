"""`fundus-export verify`: do the exported graphs still answer as PyTorch does?"""

import sys
from pathlib import Path

import click

from fundus_core.console import FILE, FOLDER, quiet_libraries, stderr
from fundus_core.errors import MissingExtraError
from fundus_core.repository import check_repository
from fundus_eval.golden import check_own
from fundus_eval.parity import laid_out

EXAMPLE = """\b
Example:
  fundus-export verify runs/first model_repository --images clinic --labels clinic.csv

\b
Exit codes: 0 all limits hold, 1 one is broken."""


@click.command(epilog=EXAMPLE)
@click.argument("run", type=FOLDER)
@click.argument("repository", type=FOLDER)
@click.option("--images", type=FOLDER, help="Images of your own to compare on.")
@click.option("--labels", type=FILE, help="Their labels, for the change of the AUC.")
def verify(run: Path, repository: Path, images: Path | None, labels: Path | None) -> None:
    """Compare PyTorch, as the finished RUN holds it, with the ONNX graphs of REPOSITORY on this CPU.

    On the golden phantoms, on held-out photographs of the run, and on --images. Prints the largest and the
    mean difference of a fold's probability, the agreement of answers to one image alone and in batches, the
    decisions that change at the threshold, and with --labels the change of the AUC with its 95 % interval.
    Of an int8 ensemble the AUC is also judged on the inner test, and the graphs must give the golden answers
    that they gave at export.
    """
    quiet_libraries()
    check_own(images, labels)
    spec = check_repository(repository)
    try:
        from fundus_export.repository import parities, read_own
        from fundus_export.trained import load_run_of
    except ImportError as error:
        raise MissingExtraError("export", f"the package '{error.name}'") from None
    with stderr.status("comparing"):
        own = read_own(images, labels, spec)
        found = parities(load_run_of(repository, spec, run), spec, repository, own)
    click.echo(laid_out(found))
    if any(parity.broken for _, parity in found):
        sys.exit(1)
