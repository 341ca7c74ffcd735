"""`fundus-export`: make a Triton model repository from a training run."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fundus_core.console import FundusGroup, quiet_libraries, say, stderr
from fundus_core.errors import MissingExtraError

if TYPE_CHECKING:
    from fundus_export.onnx import Parity

EXAMPLE = "Example:\n\n\b\n  fundus-export repository runs/first model_repository"


@click.group(cls=FundusGroup)
@click.version_option(package_name="fundus-triton")
def main() -> None:
    """Export trained folds for serving."""


@main.command(epilog=EXAMPLE)
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--bundle-version", "version", default="1", show_default=True, help="For the manifest.")
def repository(run: Path, out: Path, version: str) -> None:
    """Export the finished training RUN to the Triton model repository OUT.

    Each fold becomes an ONNX graph with its test-time views inside; its answers on real preprocessed images
    are compared with PyTorch's, and a difference above 1e-4 fails the export. The decision thresholds are
    Youden's on the out-of-fold scores.
    """
    quiet_libraries()
    try:
        from fundus_export.repository import export_repository
    except ImportError as error:
        raise MissingExtraError("export", f"the package '{error.name}'") from None

    def report(index: int, parity: "Parity") -> None:
        say(f"fold {index}: {parity}")

    with stderr.status("exporting"):
        spec = export_repository(run, out, version, report)
    thresholds = ", ".join(f"{k} {t:.4f}" for k, t in zip(spec.labels, spec.thresholds, strict=True))
    say(f"{len(spec.folds)} folds x {len(spec.views)} views, threshold {thresholds}")
    say(f"digest {spec.digest}")
    say(f"Next: fundus-client score IMAGES --repository {out}")
