"""The reports of `fundus-client score`: which options go together, and writing them."""

import os
from collections.abc import Sequence
from glob import has_magic
from pathlib import Path

from fundus_client.dicom.frames import Frames
from fundus_client.journal import Journal
from fundus_client.run import End
from fundus_client.sources.pattern import parse_pattern
from fundus_core.console import stderr
from fundus_core.errors import UsageError
from fundus_core.rows import ScoreRow


def check_reports(
    folder: Path | None, inputs: Sequence[str], key: Path | None, with_pdf: bool, adaptive: bool
) -> None:
    """Refuse options that do not go together.

    Raises:
        UsageError: pages without reports, reports without names or all folds, or a folder that the next run
            would read.
    """
    if with_pdf and not folder:
        raise UsageError("--pdf needs --sr: the folder that the pages go to.")
    if folder and key:
        raise UsageError("--sr and --pseudonymise exclude each other: a report names its patient.")
    if folder and adaptive:
        raise UsageError("--sr and --adaptive exclude each other: a report tells how far all folds disagree.")
    above = {folder.resolve(), *folder.resolve().parents} if folder else set()
    if not above.isdisjoint(map(_searched, inputs)):
        raise UsageError(f"'{folder}' lies within the inputs: the next run would read the reports. Move it.")


def _searched(name: str) -> Path:
    """Return the folder that an input is searched for in, or the input."""
    path = os.path.abspath(name)
    return Path(parse_pattern(path).folder if has_magic(path) else path).resolve()


def report(journal: Journal, source: Frames, end: End, folder: Path, with_pdf: bool) -> int:
    """Write what is missing of the reports of a run; return how many objects have theirs."""
    from fundus_client.dicom.evidence import Kind
    from fundus_client.dicom.reporting import write_reports  # highdicom takes half a second

    kinds: tuple[Kind, ...] = ("sr", "pdf") if with_pdf else ("sr",)

    def row_of(image_id: str) -> ScoreRow | None:
        return journal.row(image_id, end.missing)

    with stderr.status("writing structured reports"):
        return sum(1 for _ in write_reports(source, row_of, end.spec, folder, kinds))
