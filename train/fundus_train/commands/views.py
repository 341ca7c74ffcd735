"""`fundus-train views`: what the test-time views of a run are worth."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fundus_core.console import FOLDER, progress_bar, quiet_libraries
from fundus_core.errors import MissingExtraError

if TYPE_CHECKING:
    from fundus_train.ablation import ViewsResult

EXAMPLE = "Example:\n\n\b\n  fundus-train views runs/first --json"


@click.command(epilog=EXAMPLE)
@click.argument("run", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
@click.option("--accelerator", default="auto", show_default=True, help="auto, cpu, gpu, … (Fabric).")
def views(run: Path, as_json: bool, accelerator: str) -> None:
    """Compare sets of test-time views on the finished RUN: none, hflip, both (hflip and vflip), four.

    Prints AUC(CV) and AUC(inner_test) with 95 % intervals for each set, and the change against none with
    DeLong's paired 95 % interval. No weights change, nothing is trained.
    """
    quiet_libraries()
    try:
        from fundus_train.ablation import compare_views
        from fundus_train.devices import launched
    except ImportError as error:
        raise MissingExtraError("train", f"the package '{error.name}'") from None
    device = launched(accelerator, 1).device
    with progress_bar() as progress:
        results = compare_views(run, device, progress)
    if as_json:
        click.echo(json.dumps([result.to_json() for result in results], indent=2))
    else:
        _print(results)


def _print(results: "tuple[ViewsResult, ...]") -> None:
    for result in results:
        change = result.change
        against = f"  change {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
        line = f"{result.label}  {result.part:<16}{result.views:<6}{result.auc}"
        click.echo(line + (against if result.views != "none" else ""))
