"""`fundus-export tensorrt`: the folds of a repository as TensorRT plans for this machine."""

from pathlib import Path

import click

from fundus_core.console import FOLDER, progress_bar, say
from fundus_core.ensemble import read_manifest
from fundus_core.serving import read_serving
from fundus_export.engine import Backend
from fundus_export.plans import build_plans, check_graphs, fold_profile
from fundus_export.toolchain import NAMES

EXAMPLE = "Example:\n\n\b\n  fundus-export tensorrt model_repository"


@click.command(epilog=EXAMPLE)
@click.argument("repository", type=FOLDER)
@click.option(
    "--backend",
    type=click.Choice(tuple(NAMES)),
    default="tensorrt",
    show_default=True,
    help="tensorrt_rtx needs no GPU: it checks that every fold can be built, and writes nothing.",
)
@click.option(
    "--opt-batch",
    type=click.IntRange(1),
    help="Images at which a plan is fastest. Default: the largest batch.",
)
def tensorrt(repository: Path, backend: Backend, opt_batch: int | None) -> None:
    """Build the TensorRT plan of each fold in the model REPOSITORY, on the GPU that will serve it.

    A plan runs only with the TensorRT version and the GPU that built it. A record of both lies beside it, so
    this command may run at every start of a server: it says which plans it builds again and why, and leaves
    the others alone. The largest batch is max_batch of serving.json; the precision is that of the export.

    Exit codes: 0 every fold has its plan, 1 one cannot be built, 2 usage.
    """
    spec, max_batch = read_manifest(repository), read_serving(repository).max_batch
    profile = fold_profile(spec, opt_batch or max_batch, max_batch)
    work = build_plans if backend == "tensorrt" else check_graphs
    with progress_bar() as progress:
        task = progress.add_task("", total=100)

        def report(fold: int, share: float) -> None:
            progress.update(task, description=f"fold {fold}", completed=round(100 * share))

        work(repository, spec, profile, backend, say, report)
    if backend == "tensorrt":
        say(f"Next: tritonserver --model-repository {repository} --model-config-name tensorrt")
