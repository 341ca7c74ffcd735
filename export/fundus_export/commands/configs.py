"""`fundus-export configs`: how a repository is served on this machine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fundus_core.console import FOLDER
from fundus_core.ensemble import read_manifest
from fundus_core.errors import UsageError
from fundus_core.limits import usable_cores
from fundus_core.repository import write_rendered, write_settings
from fundus_core.serving import changed, fitted, read_serving
from fundus_export.toolchain import find_gpu

EXAMPLE = """\b
Example:
  fundus-export configs model_repository --set fold_instances=2 --fit"""


@click.command(epilog=EXAMPLE)
@click.argument("repository", type=FOLDER)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change one setting; repeatable.")
@click.option("--fit", is_flag=True, help="Settle by this machine's cores, and its GPU, what is left to it.")
def configs(repository: Path, settings: tuple[str, ...], fit: bool) -> None:
    """Render the configs of REPOSITORY from its manifest.json and serving.json, and print the settings.

    Settings say how it is served - batches, queues, instances, threads - and never change a score. They are
    explained in docs/serving.md.
    """
    spec, serving = read_manifest(repository), read_serving(repository)
    if settings or fit:
        serving = changed(serving, dict(map(_setting, settings)))
        if fit:
            serving = fitted(serving, usable_cores(), on_gpu=find_gpu() is not None)
        write_settings(repository, spec, serving)
    else:
        write_rendered(repository, spec, serving)
    for name, value in asdict(serving).items():
        click.echo(f"{name:<22}{json.dumps(value)}")


def _setting(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        hint = "Write KEY=VALUE with a number, or [4, 8] for several."
        raise UsageError(f"--set {text!r} is no setting. {hint}") from None
