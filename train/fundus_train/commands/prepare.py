"""`fundus-train prepare`: merge data sets into one labels table, and say what was left out and why."""

import json
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from fundus_core.console import progress_bar, say
from fundus_core.errors import FundusError, UsageError
from fundus_core.files import find_images
from fundus_core.provenance import versions_of
from fundus_core.schema import nearest
from fundus_core.sheet import csv_line
from fundus_core.tables import UNLABELLED
from fundus_train import merge
from fundus_train.merge import Origin, Row
from fundus_train.sources import SOURCES

KINDS = "\n".join(f"  {name:<17}{kind.description}" for name, kind in SOURCES.items())
EXAMPLE = f"""\b
Example:
  fundus-train prepare odir:ODIR-5K lag:LAG csv:clinic --undersample ODIR-5K=168/482 --output merged

\b
Kinds of sources:
{KINDS}"""


@click.command(epilog=EXAMPLE)
@click.argument("sources", nargs=-1, required=True, metavar="KIND:PATH...")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--labels", default="glaucoma", show_default=True, help="Names, separated by commas.")
@click.option(
    "--undersample",
    "draws",
    multiple=True,
    metavar="SOURCE=POS/NEG",
    help="Draw at most POS images with the first label and NEG without it from a source.",
)
@click.option(
    "--against",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="A test set: copies of its images, and their patients, are left out.",
)
@click.option("--seed", default=0, show_default=True, help="Of --undersample.")
def prepare(
    sources: tuple[str, ...],
    output: Path,
    labels: str,
    draws: tuple[str, ...],
    against: tuple[Path, ...],
    seed: int,
) -> None:
    """Merge data sets into one labels table for `fundus-train fit`.

    A source goes by its folder's name; those that a csv names in a column 'source' go by both names. Left
    out, with a reason: images that are unreadable or have no label, copies within and across sources (the
    same file, or the same picture saved anew), copies whose labels disagree. Patients who share a copy
    become one.

    Writes into --output: labels.csv (image_id, labels, patient_id, eye, source), dropped.csv (image_id,
    reason) and prepare.json, which says how they were made.
    """
    names = _names(labels)
    with _new_folder(output) as folder, progress_bar() as progress:
        origins = merge.name_origins(sources)
        wanted = dict(_draw(text, origins) for text in draws)
        found = merge.read_rows(origins, names)
        tests = _images(against)
        task = progress.add_task("photographs", total=None)

        def tick(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        rows, unread = merge.without_copies(found, tests, names, folder, tick)
        rows = merge.undersample(rows, wanted, names[0], seed)
        merge.check_usable(rows)
        counts = {origin.name: _counts(origin, names, found, rows) for origin in origins}
        _write(folder, rows, names, counts)
    for sentence in unread:
        say(f"nothing was compared with the test image {sentence}")
    _print(counts, rows, names)
    data, images = shlex.quote(str(output / "labels.csv")), shlex.quote(str(merge.common_parent(origins)))
    say(f"Table: {output}. Next: fundus-train fit RECIPE --data {data} --images {images} --output RUN")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError("--labels names no label. Write names such as glaucoma,amd.")
    return names


def _draw(text: str, origins: Sequence[Origin]) -> tuple[str, tuple[int, int]]:
    source, _, numbers = text.rpartition("=")
    positive, _, negative = numbers.partition("/")
    if not (source and positive.isdecimal() and negative.isdecimal()):
        raise UsageError(f"--undersample '{text}' is unclear. Write SOURCE=POS/NEG, such as ODIR-5K=168/482.")
    names = [origin.name for origin in origins]
    if source not in names:
        raise UsageError(f"There is no source '{source}' to undersample.{nearest(source, names)}")
    return source, (int(positive), int(negative))


def _images(paths: Sequence[Path]) -> list[Path]:
    found = {path: [image.path for image in find_images([path])] for path in paths}
    for path in paths:
        if not found[path]:
            raise UsageError(f"--against {path} holds no image. Check the path.")
    return [image for images in found.values() for image in images]


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Give a folder that becomes `output` at the end, or leaves nothing behind."""
    output = output.absolute()
    partial = output.with_name(f".{output.name}.partial")
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UsageError(f"'{output}' is there already. Remove it, or choose another --output.")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.replace(output)
    except OSError as error:
        problem = f"{error.filename or output}: {error.strerror}"
        raise FundusError(f"{problem}. Nothing was written; mend this and run the command again.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _counts(
    origin: Origin, labels: Sequence[str], found: Sequence[Row], rows: Sequence[Row]
) -> dict[str, Any]:
    """Return what prepare.json says of one source."""
    here = [row for row in rows if row.origin == origin.name]
    return {
        "kind": origin.kind,
        "folder": str(origin.path),
        "found": _of_labels(labels, (row for row in found if row.origin == origin.name)),
        "kept": _of_labels(labels, (row for row in here if not row.reason)),
        "dropped": Counter(_code(row) for row in here if row.reason),
    }


def _of_labels(labels: Sequence[str], rows: Iterable[Row]) -> dict[str, Any]:
    values = [row.values for row in rows]
    columns = ([row[k] for row in values] for k in range(len(labels)))
    pairs = zip(labels, columns, strict=True)
    of_label = {label: {"positive": of.count(1), "negative": of.count(0)} for label, of in pairs}
    return {"images": len(values), "labels": of_label}


def _code(row: Row) -> str:
    return row.reason.partition(":")[0]


def _write(folder: Path, rows: Sequence[Row], labels: Sequence[str], counts: dict[str, Any]) -> None:
    kept = (
        (row.image_id, *map(_cell, row.values), row.patient_id, row.eye, row.source)
        for row in rows
        if not row.reason
    )
    _table(folder / "labels.csv", ("image_id", *labels, "patient_id", "eye", "source"), kept)
    dropped = ((row.image_id, row.reason) for row in rows if row.reason)
    _table(folder / "dropped.csv", ("image_id", "reason"), dropped)
    made_by = versions_of("fundus-triton", "numpy", "opencv-python-headless", "pillow")
    arguments = click.get_current_context().params
    content = {"arguments": arguments, "sources": counts, "versions": made_by}
    (folder / "prepare.json").write_text(json.dumps(content, indent=2, default=str) + "\n")


def _cell(value: int) -> str:
    return "" if value == UNLABELLED else str(value)


def _table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.writelines(csv_line(row) for row in (header, *rows))


def _print(counts: dict[str, Any], rows: Sequence[Row], labels: Sequence[str]) -> None:
    width = max(len("source"), *map(len, counts))
    click.echo(f"{'source':<{width}}  images found -> kept  positive/negative found -> kept")
    for source, of in counts.items():
        line = f"{source:<{width}}  {of['found']['images']} -> {of['kept']['images']}"
        for label in labels:
            found, kept = (
                "{positive}/{negative}".format(**of[when]["labels"][label]) for when in ("found", "kept")
            )
            line += f"  {label} {found} -> {kept}"
        click.echo(line)
    for code, number in sorted(Counter(_code(row) for row in rows if row.reason).items()):
        click.echo(f"left out  {number}  {code}")
