"""`fundus-export repository`: a finished run becomes a Triton model repository."""

from pathlib import Path
from typing import cast, get_args

import click

from fundus_core.calibrator import CalibrationMethod
from fundus_core.console import FILE, FOLDER, quiet_libraries, say, stderr
from fundus_core.ensemble import Precision
from fundus_core.errors import MissingExtraError
from fundus_eval.golden import check_own
from fundus_eval.out_of_fold import RULES, threshold_rule

EXAMPLE = "Example:\n\n\b\n  fundus-export repository runs/first model_repository --precision fp16"


@click.command(epilog=EXAMPLE)
@click.argument("run", type=FOLDER)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--bundle-version", "version", default="1", show_default=True, help="For the manifest.")
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(get_args(Precision)),
    help="What the folds compute in; fp16 for GPUs, int8 for CPUs.",
)
@click.option(
    "--cut-off",
    default=RULES[0],
    show_default=True,
    metavar="RULE",
    help=f"What fixes the decision threshold on the out-of-fold scores, such as: {', '.join(RULES)}.",
)
@click.option(
    "--calibrator",
    default="temperature",
    show_default=True,
    type=click.Choice(get_args(CalibrationMethod)),
    help="Fitted on the out-of-fold scores too; used where it is asked for.",
)
@click.option("--images", type=FOLDER, help="Images of your own whose answers become golden too.")
@click.option("--labels", type=FILE, help="Labels of --images, for the change of the AUC.")
@click.option("--terms", type=FILE, help="Terms of the weights, such as those of the data: NOTICE.md of OUT.")
def repository(
    run: Path,
    out: Path,
    version: str,
    precision: str,
    cut_off: str,
    calibrator: str,
    images: Path | None,
    labels: Path | None,
    terms: Path | None,
) -> None:
    """Export the finished training RUN to the Triton model repository OUT.

    Each fold becomes an ONNX graph with its test-time views inside. The answers of PyTorch to synthetic
    phantoms and to --images go with it (of your images only the SHA-256), in int8 those of the graphs too, so
    that `fundus-client verify` can replay them through any server. The graphs are compared with PyTorch on
    these and on held-out photographs of the run, and a difference above the limits of the precision fails the
    export.
    """
    quiet_libraries()
    check_own(images, labels)
    try:
        from fundus_export.repository import export_repository
        from fundus_export.trained import Wanted
    except ImportError as error:
        raise MissingExtraError("export", f"the package '{error.name}'") from None
    threshold_rule(cut_off)  # now, not after the graphs
    method = cast(CalibrationMethod, calibrator)
    wanted = Wanted(version, cast(Precision, precision), cut_off, method, images, labels, terms)
    with stderr.status("exporting"):
        spec = export_repository(run, out, wanted, say)
    thresholds = ", ".join(f"{k} {t:.4f}" for k, t in zip(spec.labels, spec.thresholds, strict=True))
    say(f"{len(spec.folds)} folds x {len(spec.views)} views, threshold {thresholds}")
    say(f"digest {spec.digest}")
    say(f"Next: fundus-client score IMAGES --repository {out}")
