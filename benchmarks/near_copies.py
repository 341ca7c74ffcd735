"""Where copies end and look-alikes begin: the figures behind the two limits of fundus_train.duplicates.

    python benchmarks/near_copies.py csv:photos [KIND:PATH ...] [--changed 300]

Prints how many of the photographs are found again after they were saved anew, and the pairs of highest
correlation that are no exact copies, of two patients and of one (retakes of an eye). Written to
benchmarks/results/, without names of files.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from machine import command_line, write_results

from fundus_core.images import decode
from fundus_core.lit import MARGIN_LEVEL
from fundus_core.preprocess import Pixels, remove_margin
from fundus_train import duplicates
from fundus_train.duplicates import Prints, correlation, near_hashes, take_prints
from fundus_train.merge import Row, name_origins, read_rows

CHANGED_PX = 1000  # larger photographs are made this small before they are changed


def resize(pixels: Pixels, side_px: int) -> Pixels:
    """Return `pixels` with a longer side of `side_px`."""
    scale = side_px / max(pixels.shape[:2])
    return np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def crop(pixels: Pixels, share: float) -> Pixels:
    """Cut `share` off the top and the left of the field."""
    field = remove_margin(pixels, MARGIN_LEVEL)
    return field[round(share * field.shape[0]) :, round(share * field.shape[1]) :]


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    """Return what a JPEG of `quality` keeps of `pixels`."""
    encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return decode(encoded.tobytes())


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG quality 40": lambda pixels: jpeg(pixels, 40),
    "400 px, quality 75": lambda pixels: jpeg(resize(pixels, 400), 75),
    "224 px, quality 60": lambda pixels: jpeg(resize(pixels, 224), 60),
    "2 % of two sides cut off": lambda pixels: crop(pixels, 0.02),
    "4 % of two sides cut off": lambda pixels: crop(pixels, 0.04),
    "black margin added": lambda pixels: np.pad(pixels, ((90, 30), (10, 120), (0, 0))),
    "brightness 60 %": lambda pixels: (pixels * 0.6).astype(np.uint8),
    "squeezed to a square": lambda pixels: cv2.resize(remove_margin(pixels, MARGIN_LEVEL), (512, 512)),
    "mirrored (no copy)": lambda pixels: pixels[:, ::-1],
}


def found_again(paths: Sequence[Path], scratch: Path) -> dict[str, float]:
    """Return the share of `paths` that is a copy of itself after each change."""
    found = dict.fromkeys(CHANGES, 0)
    for path in paths:
        pixels = resize(decode(path.read_bytes()), CHANGED_PX)
        files = [scratch / f"{i}.png" for i in range(len(CHANGES) + 1)]
        for file, change in zip(files, (lambda same: same, *CHANGES.values()), strict=True):
            cv2.imwrite(str(file), change(pixels)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        prints = take_prints(files, scratch, lambda done, total: None)
        near = {right for left, right in near_hashes(prints.hashes) if left == 0}
        for i, name in enumerate(CHANGES, start=1):
            same = i in near and correlation(*prints.details[[0, i]]) >= duplicates.MIN_CORRELATION
            found[name] += int(same)
    return {name: round(count / len(paths), 4) for name, count in found.items()}


def closest(rows: Sequence[Row], prints: Prints, same_patient: bool) -> list[tuple[float, int, int]]:
    """Return (correlation, row, row) of the pairs with near hashes that are no exact copies, in order."""
    pairs = [
        (correlation(prints.details[a], prints.details[b]), a, b)
        for a, b in near_hashes(prints.hashes)
        if prints.sha256[a] != prints.sha256[b]
        and (rows[a].patient_id == rows[b].patient_id != "") == same_patient
    ]
    return sorted(pairs, reverse=True)


def main() -> None:
    """Measure, print, write."""
    parser = command_line(__doc__)
    parser.add_argument("sources", nargs="+", metavar="KIND:PATH")
    parser.add_argument("--changed", type=int, default=300)
    arguments = parser.parse_args()
    rows = [row for row in read_rows(name_origins(arguments.sources), ("glaucoma",)) if not row.reason]
    chosen = np.random.default_rng(0).permutation(len(rows))[: arguments.changed]
    with tempfile.TemporaryDirectory() as folder:
        prints = take_prints([row.path for row in rows], Path(folder), lambda done, total: None)
        again = found_again([rows[i].path for i in chosen], Path(folder))
    for name, share in again.items():
        print(f"{name:<28}{share:7.1%} found again")
    summary = {"images": len(rows), "changed": len(chosen), "found_again": again}
    for kind, same in (("two patients", False), ("one patient", True)):
        pairs = closest(rows, prints, same)
        print(f"closest of {len(pairs)} pairs of {kind} with near hashes:")
        for value, a, b in pairs[:6]:
            print(f"  {value:.2f}  {rows[a].image_id}  {rows[b].image_id}")
        summary[f"closest, {kind}"] = [round(value, 3) for value, *_ in pairs[:6]]
    write_results("near_copies", summary)


if __name__ == "__main__":
    main()
