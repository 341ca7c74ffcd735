"""`fundus-train preview`: look at what a recipe makes of photographs before training on them."""

import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import click
import cv2

from fundus_core.console import FILE, progress_bar
from fundus_core.errors import EXIT_SOME_FAILED, FundusError, MissingExtraError, UsageError
from fundus_core.files import IMAGE_SUFFIXES, ImageRef, find_images
from fundus_train.preview import Pixels, Row, draw_sheet, follow
from fundus_train.recipe import read_recipe

PATH = click.Path(path_type=Path)
KINDS = (".png", ".jpg", ".jpeg")
EXAMPLE = """\b
Example:
  fundus-train preview recipe.toml photos --count 5 --output preview.png

\b
Exit codes: 0 all drawn, 1 fatal, 2 usage, 3 some files could not be read."""


@click.command(epilog=EXAMPLE)
@click.argument("recipe", type=FILE)
@click.argument("images", nargs=-1, required=True, type=PATH)
@click.option("--output", default="preview.png", show_default=True, type=PATH, help="Picture to write.")
@click.option("--count", default=8, show_default=True, type=click.IntRange(1), help="Draw the first so many.")
def preview(recipe: Path, images: tuple[Path, ...], output: Path, count: int) -> None:
    """Draw what RECIPE makes of IMAGES (files or folders): a row for each, a column for every step.

    The columns are the original, reduced as far as networks need no more of it, each preprocessing step that
    the recipe asks for, and, where it augments, three training versions. A file that cannot be read has its
    reason in its row.
    """
    plan = read_recipe(recipe)
    _check_output(output)
    refs = _first(images, count)
    try:
        with progress_bar() as progress:
            rows = [follow(ref, plan) for ref in progress.track(refs, description="drawing")]
    except ImportError as error:  # AugMix is torchvision's
        raise MissingExtraError("train", f"the package '{error.name}'") from None
    _save(draw_sheet(rows), output)
    _print(rows, output)
    if any(row.reason for row in rows):
        sys.exit(EXIT_SOME_FAILED)


def _check_output(output: Path) -> None:
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UsageError(f"'{output}' cannot be written: give a file name in a folder that exists.")
    if output.suffix.lower() not in KINDS:
        raise UsageError(f"'{output}' names no kind of picture. End it in .png or .jpg.")


def _first(images: tuple[Path, ...], count: int) -> list[ImageRef]:
    refs = list(islice(find_images(images), count))
    if not refs:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(f"There is no image below {', '.join(map(str, images))}; looked for {suffixes}.")
    return refs


def _save(sheet: Pixels, output: Path) -> None:
    done, encoded = cv2.imencode(output.suffix, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if not done:
        hint = "Lower --count, or end --output in .png."
        raise UsageError(f"A JPEG file cannot be {len(sheet)} pixels high. {hint}")
    try:
        output.write_bytes(encoded.tobytes())
    except OSError as error:
        raise FundusError(f"'{output}' cannot be written: {error.strerror}. Choose another place.") from None


def _print(rows: list[Row], output: Path) -> None:
    click.echo(f"drawn {sum(not row.reason for row in rows)} of {len(rows)} files")
    for reason, n_files in sorted(Counter(row.reason for row in rows if row.reason).items()):
        click.echo(f"failed {n_files}: {reason}")
    click.echo(f"sheet  {output}")
