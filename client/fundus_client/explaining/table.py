"""What `fundus-client explain` writes: a picture and a map of each photograph, and a row of every input."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fundus_client.explaining.explain import Explanation
from fundus_client.explaining.picture import draw
from fundus_core.files import whole_file
from fundus_core.preprocess import Pixels
from fundus_core.sheet import csv_line, float32_text

TABLE = "explain.csv"
_OF_EXPLANATION = (
    *("probability", "difference", "lowest", "highest", "stability", "n_used", "n_moved"),
    *("left_px", "top_px", "width_px", "height_px"),
)
COLUMNS = ("image_id", "sha256", "status", "reason", "label", *_OF_EXPLANATION, "bundle_digest")


@dataclass(frozen=True)
class ExplainRow:
    """One input's line in `explain.csv`: an explanation, or the reason why there is none."""

    image_id: str
    sha256: str
    reason: str  # "" where explained, else "code: sentence"
    found: tuple[str, ...]  # `found_cells`, () where there is a reason

    def __post_init__(self) -> None:
        if bool(self.reason) == bool(self.found):
            raise ValueError(f"{self.image_id!r}: a row has an explanation or a reason")

    def cells(self, label: str, bundle_digest: str) -> tuple[str, ...]:
        """Return the row's texts, one per column of `COLUMNS`."""
        status = "failed" if self.reason else "explained"
        found = self.found or ("",) * len(_OF_EXPLANATION)
        return (self.image_id, self.sha256, status, self.reason, label, *found, bundle_digest)


def found_cells(found: Explanation) -> tuple[str, ...]:
    """Return what a row says of an explanation: texts, so that no photograph stays in memory."""
    area = found.subject.area
    lowest, highest = float(np.nanmin(found.heat)), float(np.nanmax(found.heat))
    numbers = (found.probability, found.difference, lowest, highest, found.stability)
    places = (area.left_px, area.top_px, area.width_px, area.height_px)
    return (
        *(float32_text(each) for each in numbers),
        str(found.n_used),
        str(found.n_moved),
        *map(str, places),
    )


def write_map(path: Path, found: Explanation) -> Pixels:
    """Write the picture and the map (G, G) float32 as `path` with `.heat.png` and `.heat.npy` behind it.

    Returns:
        the picture (H, W, 3), RGB.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = draw(found.subject, found.heat)
    with whole_file(path.with_name(f"{path.name}.heat.png")) as partial:
        partial.write_bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
    with whole_file(path.with_name(f"{path.name}.heat.npy")) as partial, partial.open("wb") as file:
        np.save(file, found.heat.astype(np.float32))
    return picture


def write_rows(folder: Path, rows: list[ExplainRow], label: str, bundle_digest: str) -> None:
    """Write `explain.csv`, whole or not at all."""
    lines = [COLUMNS, *(row.cells(label, bundle_digest) for row in rows)]
    with whole_file(folder / TABLE) as partial:
        partial.write_text("".join(map(csv_line, lines)), "utf-8", "surrogateescape")
