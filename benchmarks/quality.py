"""How often `fundus_core.quality` is right: false flags on real photographs, flags on spoilt and made ones.

    python benchmarks/quality.py DATA [--pictures FOLDER] [--changed 400]

DATA holds a folder per data set, each with a labels.csv of image_id and, if known, group or patient_id, and
quality_score. Every person is in one half of a set: the limits were fixed on the first half, the second
says how good they are. FOLDER: pictures of other things, which count with some of their crops. Printed, and
written to benchmarks/results/ without names of files.
"""

import csv
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from fields import whole_disc
from machine import command_line, write_results
from numpy.random import Generator, default_rng
from scipy.stats import spearmanr

from fundus_core.errors import ImageError
from fundus_core.files import find_images
from fundus_core.images import decode
from fundus_core.lit import MARGIN_LEVEL
from fundus_core.overview import overview
from fundus_core.preprocess import (
    Pixels,
    PreprocessSpec,
    crop_around,
    crop_centre,
    preprocess_encoded,
    remove_margin,
)
from fundus_core.quality import Quality, measure, ungradable

CHANGED_PX = 1000  # larger photographs are made this small before they are changed
NOISE = 1.5  # grey levels (standard deviation) that a sensor adds after the lens has blurred
N_MADE = 200  # pictures of each made kind
CROPS = 8  # of each picture of another thing, beside the whole
LEAST_CROP_PX, TIMED = 200, 40
REFERENCE = PreprocessSpec(160, disc_crop=0.3, illumination="local_contrast")  # as the reference ensemble

Change = Callable[[Pixels, Generator], Pixels]


@dataclass(frozen=True)
class Photograph:
    """One photograph of DATA. `half` is 0 where limits were fixed, 1 where they are judged."""

    path: Path
    source: str
    half: int
    score: float | None  # quality_score: higher is better


def photographs(data: Path) -> Iterator[Photograph]:
    """Yield the photographs of every set below `data`, without exact copies."""
    for table in sorted(data.glob("*/labels.csv")):
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                if not row.get("exact_duplicate_of"):
                    person = row.get("group") or row.get("patient_id") or row["image_id"]
                    half = hashlib.sha256(f"{table.parent.name}/{person}".encode()).digest()[0] % 2
                    score = float(row["quality_score"]) if row.get("quality_score") else None
                    yield Photograph(table.parent / row["image_id"], table.parent.name, half, score)


def judge(pixels: Pixels) -> tuple[Quality, str]:
    """Return what the server measures, and the verdict."""
    field = remove_margin(pixels, MARGIN_LEVEL)
    quality = measure(overview(field), max(field.shape[:2]))
    return quality, ungradable(quality)


def defocus(pixels: Pixels, rng: Generator, radius: float) -> Pixels:
    """Return what a lens out of focus, a sensor and a JPEG make of it; `radius` as a share of the width."""
    radius_px = radius * max(pixels.shape[:2])
    away = np.arange(-int(radius_px + 1), int(radius_px + 1) + 1)
    disc = np.clip(radius_px + 0.5 - np.hypot(away, away[:, None]), 0, 1)
    return _recorded(cv2.filter2D(pixels, -1, disc / disc.sum()), rng)


def motion(pixels: Pixels, rng: Generator, length: float) -> Pixels:
    """Return what an eye that moves leaves; `length` as a share of the width."""
    size = round(length * max(pixels.shape[:2])) | 1
    turn = cv2.getRotationMatrix2D((size // 2, size // 2), rng.uniform(0, 180), 1)
    line = np.zeros((size, size), np.float32)
    line[size // 2] = 1
    line = cv2.warpAffine(line, turn, (size, size))
    return _recorded(cv2.filter2D(pixels, -1, line / line.sum()), rng)


def _recorded(pixels: Pixels, rng: Generator) -> Pixels:
    noisy = np.clip(pixels + rng.normal(0, NOISE, pixels.shape), 0, 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    return decode(encoded.tobytes())


def resized(pixels: Pixels, side_px: int) -> Pixels:
    """Return `pixels` with a longer side of at most `side_px`."""
    scale = min(1.0, side_px / max(pixels.shape[:2]))
    return np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def around_disc(pixels: Pixels, _: Generator) -> Pixels:
    """Return the square around the optic disc that is 45 % as wide as the field."""
    field_of_view = remove_margin(pixels, MARGIN_LEVEL)
    return crop_around(field_of_view, whole_disc(field_of_view), 0.45)


CROPPED: dict[str, Change] = {
    "middle, 60 % of the width": lambda pixels, _: crop_centre(remove_margin(pixels, MARGIN_LEVEL), 0.6),
    "optic disc, 45 % of the width": around_disc,
}
SPOILT: dict[str, Change] = {
    "light 5 %": lambda pixels, _: (pixels * 0.05).astype(np.uint8),
    "light 10 %": lambda pixels, _: (pixels * 0.1).astype(np.uint8),
    "defocus, radius 1 % of the width": partial(defocus, radius=0.01),
    "defocus, radius 1.5 %": partial(defocus, radius=0.015),
    "defocus, radius 2 %": partial(defocus, radius=0.02),
    "defocus, radius 3 %": partial(defocus, radius=0.03),
    "motion, 3 % of the width": partial(motion, length=0.03),
    "motion, 6 % of the width": partial(motion, length=0.06),
    "grey": lambda pixels, _: cv2.merge([cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)] * 3),
    "green light only": lambda pixels, _: pixels * np.array([0, 1, 0], np.uint8),
    "red and blue swapped": lambda pixels, _: pixels[..., ::-1],
    "120 px wide": lambda pixels, _: resized(pixels, 120),
}


def b_scan(rng: Generator) -> Pixels:
    """Return an OCT B-scan (496, 768, 3) as a drawing: layers over a curve, with speckle."""
    depth, width = np.arange(496.0)[:, None], np.arange(768.0)
    surface = rng.uniform(120, 260) + rng.uniform(-60, 60) * np.sin(width / rng.uniform(150, 400))
    below = depth - surface
    light = np.zeros((496, 768))
    for layer, strength in ((0, 0.7), (40, 0.35), (70, 0.5), (105, 1.0), (125, 0.6)):
        light += strength * np.exp(-(((below - layer) / rng.uniform(6, 14)) ** 2))
    light = 255 * (0.04 + 0.6 * light) * rng.exponential(1, light.shape) ** 0.6
    return cv2.merge([np.clip(light, 0, 255).astype(np.uint8)] * 3)


def text(rng: Generator) -> Pixels:
    """Return a page of letters (1000, 750, 3)."""
    page = np.full((1000, 750, 3), 250, np.uint8)
    for line in range(60, 980, 28):
        letters = "".join(chr(code) for code in rng.integers(65, 123, 50))
        cv2.putText(page, letters, (30, line), cv2.FONT_HERSHEY_PLAIN, 1.2, (20, 20, 30), 1, cv2.LINE_AA)
    return page


def noise(rng: Generator, shape: tuple[int, ...], mean: float, spread: float) -> Pixels:
    """Return a frame of nothing but noise."""
    return np.clip(rng.normal(mean, spread, shape), 0, 255).astype(np.uint8)


MADE: dict[str, Callable[[Generator], Pixels]] = {
    "OCT B-scan": b_scan,
    "OCT B-scan in false colours": lambda rng: cv2.applyColorMap(b_scan(rng), cv2.COLORMAP_JET),
    "page of text": text,
    "black frame with noise": lambda rng: noise(rng, (900, 900, 3), 4, 3),
    "white frame": lambda rng: noise(rng, (900, 900, 3), 250, 3),
    "orange frame": lambda rng: noise(rng, (900, 900, 3), 0, 2) + np.array([200, 110, 50], np.uint8),
    "noise in colours": lambda rng: noise(rng, (900, 900, 3), 128, 60),
}


def crops(pixels: Pixels, rng: Generator) -> Iterator[Pixels]:
    """Yield the picture and squares of it."""
    yield pixels
    height, width = pixels.shape[:2]
    for _ in range(CROPS):
        side = int(rng.uniform(0.4, 0.9) * min(height, width))
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        if side >= LEAST_CROP_PX:
            yield pixels[top : top + side, left : left + side]


def shares(verdicts: Sequence[str]) -> dict[str, float]:
    """Return the number of verdicts, the share that is flagged, and the share of each code."""
    found = Counter(code.split()[0] for verdict in verdicts if verdict for code in verdict.split("; "))
    flagged = sum(map(bool, verdicts)) / len(verdicts)
    of_code = {code: round(count / len(verdicts), 4) for code, count in sorted(found.items())}
    return {"n": len(verdicts), "flagged": round(flagged, 4)} | of_code


@dataclass
class Report:
    """Prints what it is told, and keeps it."""

    results: dict[str, dict[str, object]] = field(default_factory=dict)

    def flags(self, kind: str, name: str, verdicts: Sequence[str]) -> None:
        """Report how many of some pictures are flagged, and why."""
        values = shares(verdicts)
        self.results.setdefault(kind, {})[name] = values
        line = "  ".join(f"{key} {value:.1%}" for key, value in values.items() if key != "n")
        print(f"{name:<36}{len(verdicts):>6}  {line}", flush=True)

    def numbers(self, name: str, values: dict[str, object]) -> None:
        """Report some numbers."""
        self.results[name] = values
        print(f"{name}:", *(f"{key} {value}" for key, value in values.items()), flush=True)


def judge_all(every: Sequence[Photograph], pool: ThreadPoolExecutor, report: Report) -> None:
    """Report the flags in both halves, and how sharpness goes with an expert's score where there is one."""
    judged = list(pool.map(lambda each: judge(decode(each.path.read_bytes())), every))
    for half, what in ((0, "first half: limits were fixed here"), (1, "second half")):
        print(f"photographs, {what}")
        for source in (*sorted({each.source for each in every}), "all"):
            chosen = [
                verdict
                for photograph, (_, verdict) in zip(every, judged, strict=True)
                if photograph.half == half and source in (photograph.source, "all")
            ]
            report.flags(f"half {half + 1}", source, chosen)
    scores = np.array([each.score or np.nan for each in every])
    known = ~np.isnan(scores)
    if known.any():
        sharpness = np.array([quality.sharpness for quality, _ in judged])
        rho = round(float(spearmanr(scores[known], sharpness[known]).statistic), 3)
        report.numbers("sharpness and quality_score", {"n": int(known.sum()), "spearman": rho})


def judge_changed(photograph: Photograph, change: Change) -> str:
    """Return the verdict on a changed photograph; the same on every call."""
    seed = int.from_bytes(hashlib.sha256(photograph.path.name.encode()).digest()[:4])
    pixels = resized(decode(photograph.path.read_bytes()), CHANGED_PX)
    return judge(change(pixels, default_rng(seed)))[1]


def other_things(folder: Path) -> Iterator[str]:
    """Yield the verdicts on pictures of other things, and on crops of them."""
    for number, ref in enumerate(find_images([folder])):
        try:
            pixels = decode(ref.path.read_bytes())
        except ImageError:
            continue
        yield from (judge(crop)[1] for crop in crops(pixels, default_rng(number)))


def timing(paths: Sequence[Path]) -> dict[str, object]:
    """Return median CPU time per photograph: of the measures, and of decoding and preprocessing."""
    times_ms = []
    for path in paths:
        data = path.read_bytes()
        photograph = remove_margin(decode(data), MARGIN_LEVEL)
        started = time.process_time()
        measure(overview(photograph), max(photograph.shape[:2]))
        between = time.process_time()
        preprocess_encoded(data, REFERENCE)
        times_ms.append((1000 * (between - started), 1000 * (time.process_time() - between)))
    measures, rest = np.median(times_ms, axis=0).tolist()
    ratio = round(measures / rest, 3)
    return {"measures_ms": round(measures, 2), "decode_and_preprocess_ms": round(rest, 2), "ratio": ratio}


def main() -> None:
    """Measure, print, write."""
    parser = command_line(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--changed", type=int, default=400)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    every, report = list(photographs(arguments.data)), Report()
    if not every:
        sys.exit(f"Skipped: '{arguments.data}' has no */labels.csv of real photographs.")
    largest = sorted((each.path for each in every), key=lambda path: -path.stat().st_size)
    report.numbers("CPU time", timing(largest[:TIMED]))
    second = [each for each in every if each.half == 1]
    order = default_rng(0).permutation(len(second))[: arguments.changed]
    with ThreadPoolExecutor(2) as pool:
        judge_all(every, pool, report)
        for kind, changes in (("cropped", CROPPED), ("spoilt", SPOILT)):
            print(f"photographs of the second half, {kind}")
            for name, change in changes.items():
                verdicts = pool.map(partial(judge_changed, change=change), (second[i] for i in order))
                report.flags(kind, name, list(verdicts))
    print("made pictures")
    for name, make in MADE.items():
        report.flags("made", name, [judge(make(default_rng(seed)))[1] for seed in range(N_MADE)])
    if arguments.pictures:
        report.flags("other things", "pictures and their crops", list(other_things(arguments.pictures)))
    write_results("quality", report.results)


if __name__ == "__main__":
    main()
