"""How an eye was framed: what the frame gives away, and what it costs when a data set was cropped.

    python benchmarks/framing.py RUN IMAGES [--source hygd] [--repository DIR] [--every 2]

RUN is a run of the repository's recipe, IMAGES the folder that its ids are relative to. Printed, and written
to benchmarks/results/:
- over all images of one source, the AUC of nothing but the black beyond the field, in a square and in a
  circle around the disc;
- over the inner test, the AUC of the served folds on photographs as they are, clipped at the top and bottom,
  cropped to squares around the disc as some data sets publish them, and as cameras with a narrower field
  would have taken them.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fields import seen_by, whole_disc
from machine import command_line, write_results
from numpy.random import default_rng
from numpy.typing import NDArray
from what_it_looks_at import Ensemble

from fundus_client.servers import reference_repository
from fundus_core.disc import Disc, find_disc
from fundus_core.errors import LabelsError
from fundus_core.files import read_encoded
from fundus_core.images import DEFAULT_LIMITS, decode
from fundus_core.lit import MARGIN_LEVEL, brightest
from fundus_core.preprocess import Pixels, crop_around, keep_circle, pad_to_square, remove_margin
from fundus_core.sheet import read_sheet
from fundus_eval.auc import auc_delong

SHARES = (0.3, 0.4, 0.5)  # of the field, kept around the disc
CROPS = (0.28, 0.4, 0.6)
NARROW_DEG = (30, 36)  # fields of cameras, beside the 45 degrees of most
CLIPPED = 0.12  # of the height, at the top and at the bottom
BESIDE = 0.02  # of the picture: whoever crops does not hit the disc's centre


def main() -> None:
    """Measure, print, write."""
    arguments = parse()
    sheet = read_sheet(arguments.run / "split.csv", LabelsError)
    ids, parts, sources = sheet.texts("image_id"), sheet.texts("part"), sheet.texts("source")
    truth = np.array([int(value) for value in sheet.texts("glaucoma")])
    own = [i for i, source in enumerate(sources) if source == arguments.source]
    tested = [i for i, part in enumerate(parts) if part == "test"][:: arguments.every]
    black = black_shares(fields(arguments.images, [ids[i] for i in own]))
    framed = {
        name: str(auc_delong(truth[own], -share)) for name, share in black.items()
    }  # glaucoma was photographed with the disc in the middle
    scores = cropped_scores(
        Ensemble.load(arguments.repository), fields(arguments.images, [ids[i] for i in tested])
    )
    cropped = {name: str(auc_delong(truth[tested], score)) for name, score in scores.items()}
    content = {f"black beyond the field, {arguments.source}": framed, "inner test": cropped, "n": len(tested)}
    print(json.dumps(content, indent=2))
    write_results("framing", content)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--source", default="hygd")
    parser.add_argument("--repository", type=Path, default=reference_repository())
    parser.add_argument("--every", type=int, default=2, help="take each n-th image of the inner test")
    return parser.parse_args()


def fields(images: Path, ids: list[str]) -> Iterator[Pixels]:
    """Yield the photographs without their margin."""
    for image_id in ids:
        data = read_encoded(images / image_id, DEFAULT_LIMITS)
        yield remove_margin(decode(data, DEFAULT_LIMITS), MARGIN_LEVEL)


def black_shares(pictures: Iterator[Pixels]) -> dict[str, NDArray[np.float64]]:
    """Return how much of each picture (N,) lies beyond the field, in a square and in a circle."""
    found: dict[str, list[float]] = {}
    for field in pictures:
        disc = find_disc(field)
        for share in SHARES:
            square = crop_around(field, disc, share)
            beyond = brightest(square) <= MARGIN_LEVEL
            circle = keep_circle(np.full_like(square, 255))[..., 0] > 0
            found.setdefault(f"square of {share}", []).append(beyond.mean())
            found.setdefault(f"circle of {share}", []).append(beyond[circle].mean())
    return {name: np.array(values) for name, values in found.items()}


def cropped_scores(ensemble: Ensemble, pictures: Iterator[Pixels]) -> dict[str, NDArray[np.float64]]:
    """Return the scores (N,) of the whole photographs, clipped ones and crops."""
    rng, found = default_rng(0), dict[str, list[float]]()
    for field in pictures:
        disc, rows = whole_disc(field), round(CLIPPED * field.shape[0])
        beside = Disc(disc.x + rng.uniform(-BESIDE, BESIDE), disc.y + rng.uniform(-BESIDE, BESIDE))
        shown = {"as they are": pad_to_square(field), "clipped": field[rows:-rows]}
        shown |= {f"cropped to {share} of the field": crop_around(field, beside, share) for share in CROPS}
        shown |= {f"a field of {deg} degrees": seen_by(field, disc, deg / 45, 0.5)[0] for deg in NARROW_DEG}
        for name, picture in shown.items():
            found.setdefault(name, []).append(float(ensemble.score([picture])[0]))
    return {name: np.array(values) for name, values in found.items()}


if __name__ == "__main__":
    main()
