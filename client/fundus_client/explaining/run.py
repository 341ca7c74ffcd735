"""A run over photographs: each becomes a picture, a map and a row, or a row with a reason."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from fundus_client.dicom.frames import Frame
from fundus_client.explaining.explain import Explainer, Explanation, Tick, UnexplainedError
from fundus_client.explaining.table import ExplainRow, found_cells, write_map, write_rows
from fundus_client.sources import Ref
from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import (
    BreaksServerError,
    BundleError,
    ImageError,
    ServerError,
    ServerUnreachableError,
    UsageError,
)
from fundus_core.images import DEFAULT_LIMITS

NOT_ASKED = "server_unreachable: Not explained: no server was ready any more."
STOPPED = "stopped: Not explained: the run was ended before. Explain it into a new folder."
Begin = Callable[[], Tick]  # is called for each image that comes next


def label_index(labels: Sequence[str], label: str | None) -> int:
    """Return where a label stands, 0 for None.

    Raises:
        UsageError: the bundle has no such label.
    """
    if label is None:
        return 0
    if label not in labels:
        raise UsageError(f"The bundle has no label {label!r}. Choose one of: {', '.join(labels)}.")
    return labels.index(label)


async def explain_all(
    explainer: Explainer, refs: Sequence[Ref], folder: Path, begin: Begin
) -> list[ExplainRow]:
    """Return a row for each image, in order, and write them; once the servers are lost, no more is asked.

    A run that is stopped leaves its table too: what was not reached has a row that says so.
    """
    rows: list[ExplainRow] = []
    try:
        for ref in refs:
            if explainer.pool.lost:
                rows.append(ExplainRow(ref.image_id, "", NOT_ASKED, ()))
            else:
                rows.append(await _row(explainer, ref, folder, begin()))
    finally:
        left = [ExplainRow(ref.image_id, "", STOPPED, ()) for ref in refs[len(rows) :]]
        spec = explainer.pool.spec
        write_rows(folder, rows + left, spec.labels[explainer.label], spec.digest)
    return rows


async def _row(explainer: Explainer, ref: Ref, folder: Path, tick: Tick) -> ExplainRow:
    sha256 = ""
    try:
        data = await asyncio.to_thread(ref.read, DEFAULT_LIMITS)
        sha256 = hashlib.sha256(data).hexdigest()
        found = await explainer.explain(data, tick)
    except (ServerUnreachableError, BundleError):
        reason = NOT_ASKED
    except ImageError as error:
        reason = f"{error.reason}: {error}"
    except UnexplainedError as error:
        reason = f"{error.code}: {error}"
    except BreaksServerError as error:
        reason = f"breaks_server: {error}"
    except ServerError as error:
        reason = f"server_error: {error}"
    else:
        await asyncio.to_thread(_write, folder / ref.image_id, ref, found, explainer.pool.spec)
        return ExplainRow(ref.image_id, sha256, "", found_cells(found))
    return ExplainRow(ref.image_id, sha256, reason, ())


def _write(path: Path, ref: Ref, found: Explanation, spec: EnsembleSpec) -> None:
    """Write the map, and for the archive a Secondary Capture of it where the photograph is a DICOM object."""
    picture = write_map(path, found)
    if isinstance(ref, Frame):
        from fundus_client.dicom.reporting import write_capture  # highdicom takes half a second

        write_capture(ref, picture, spec, path.with_name(f"{path.name}.heat.dcm"))
