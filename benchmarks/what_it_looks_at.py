"""What an ensemble looks at: the cup and the disc, or the border and the camera?

    python benchmarks/what_it_looks_at.py [--repository DIR] [--photographs HYGD] [--eyes 24] [--count 100]

Phantoms are drawn with one thing changed, and scored by bare onnxruntime sessions. With --photographs, the
folder of HYGD, one phantom is set into the frame of each photograph, in its original size: whatever then
predicts the photograph's label is border or size. There, the width of a picture does. Printed: the figures;
written with the bundle's digest to benchmarks/results/. The tests of the reference ensemble measure by the
same functions.
"""

import argparse
import csv
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from machine import command_line, write_results
from numpy.typing import NDArray
from phantom_places import Region, around_disc, beside_disc, on_disc

from fundus_client.servers import reference_repository
from fundus_core import phantoms
from fundus_core.ensemble import MODEL_ONNX, PIXELS, EnsembleSpec, fold_model, read_manifest
from fundus_core.images import decode
from fundus_core.lit import MARGIN_LEVEL, brightest
from fundus_core.phantoms import CAMERAS, Camera, Plan
from fundus_core.preprocess import Pixels, preprocess, remove_margin
from fundus_eval.auc import auc_delong

Scores = NDArray[np.float64]

RATIOS = (0.3, 0.45, 0.6, 0.7, 0.85)
CAMERA = CAMERAS[1]  # neutral colours, 1024 pixels
SHAPES = tuple(  # cameras that are alike but for size, frame, margin and file
    replace(camera, white_balance=CAMERA.white_balance, blur_px=CAMERA.blur_px) for camera in CAMERAS
)
GLOW = 0.3  # of a field's light, and less, is what shines into its margin
FRAMED = ((3, 0.6), (1, 0.6), (2, 0.6), (4, 0.6))  # seed and ratio of phantoms that are no clear case
RETINA = (150, 85, 50)  # RGB of an average field
BORDER = 0.15  # of the width, black, on every side


@dataclass(frozen=True)
class Ensemble:
    """The folds of a model repository, without a server."""

    spec: EnsembleSpec
    folds: tuple[onnxruntime.InferenceSession, ...]

    @classmethod
    def load(cls, repository: Path) -> "Ensemble":
        """Open every fold's model.onnx."""
        spec = read_manifest(repository)
        files = [repository / fold_model(fold.index) / MODEL_ONNX for fold in spec.folds]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the folds run side by side
        return cls(spec, tuple(onnxruntime.InferenceSession(str(file), options) for file in files))

    def score(self, pictures: Iterable[Pixels]) -> Scores:
        """Return the mean probability of the first label (N,)."""
        with ThreadPoolExecutor() as pool:
            return np.array([self._score_one(pixels, pool) for pixels in pictures])

    def _score_one(self, pixels: Pixels, pool: Executor) -> float:
        feed = {PIXELS: preprocess(pixels, self.spec.preprocess)[None]}
        answers = pool.map(lambda fold: fold.run(None, feed)[0], self.folds)
        return float(np.mean([answer[0, 0] for answer in answers]))


@dataclass(frozen=True)
class Ratio:
    """How the score follows the cup-to-disc ratio."""

    mean_score: tuple[float, ...]  # one for each of RATIOS
    rank_correlation: float  # Spearman's, of all scores with their ratio

    @property
    def effect(self) -> float:
        """What the largest cup scores above the smallest."""
        return self.mean_score[-1] - self.mean_score[0]


@dataclass(frozen=True)
class Erased:
    """How far the score of a phantom with glaucoma moves, on average, when a place is erased."""

    disc: float
    around: float  # an equal area around the disc, inside the circle that the networks see
    elsewhere: float  # an equal area further away or at the fovea, mostly beyond that circle


@dataclass(frozen=True)
class Frames:
    """What frames of photographs give; a difference is the mean score with glaucoma less that without."""

    n: int
    width_auc: float  # of the picture's width by itself: the trap
    same_eye_difference: float  # the mean of some phantoms, each set into every frame
    same_eye_auc: float
    even_difference: float  # nothing in the frame: no picture the networks were made for
    even_auc: float
    whole_auc: float  # the photographs as they are; the ensemble may have been trained on them


def main() -> None:
    """Measure, print, write."""
    arguments = parse()
    ensemble, seeds = Ensemble.load(arguments.repository), range(arguments.eyes)
    figures = {
        "ratio": asdict(follow_ratio(ensemble, seeds)),
        "erased": asdict(erase_places(ensemble, seeds)),
        "moved by another": {
            "size, frame or file": deliver(ensemble, seeds, SHAPES),
            "camera": deliver(ensemble, seeds, CAMERAS),
            "frame of an even field": deliver_even(ensemble, SHAPES),
        },
    }
    if arguments.photographs:
        figures["frames"] = asdict(score_frames(ensemble, arguments.photographs, arguments.count))
    for name, figure in figures.items():
        print(name, *(f"{key} {np.round(value, 3)}" for key, value in figure.items()), sep="  ")
    bundle = {"name": ensemble.spec.name, "digest": ensemble.spec.digest}
    write_results("what_it_looks_at", {"bundle": bundle, "eyes": len(seeds)} | figures)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__)
    parser.add_argument("--repository", type=Path, default=reference_repository())
    parser.add_argument("--photographs", type=Path, help="folder of HYGD")
    parser.add_argument("--eyes", type=int, default=24, help="how many phantoms are drawn")
    parser.add_argument("--count", type=int, default=100, help="how many photographs of each class")
    return parser.parse_args()


def follow_ratio(ensemble: Ensemble, seeds: Sequence[int]) -> Ratio:
    """Draw each eye with every ratio, on one camera."""
    drawn = [phantoms.draw(eye(seed, ratio)).pixels for seed in seeds for ratio in RATIOS]
    scores = ensemble.score(drawn).reshape(len(seeds), len(RATIOS))
    ranks = scores.ravel().argsort().argsort().reshape(scores.shape)
    of_ratio = np.broadcast_to(np.arange(len(RATIOS)), scores.shape)
    correlation = float(np.corrcoef(ranks.ravel(), of_ratio.ravel())[0, 1])
    return Ratio(tuple(scores.mean(axis=0).tolist()), correlation)


def erase_places(ensemble: Ensemble, seeds: Sequence[int]) -> Erased:
    """Erase the disc of eyes with glaucoma, then equal areas elsewhere, one at a time."""
    moved = []
    for seed in seeds:
        drawn = eye(seed, RATIOS[-1])
        pixels, share = phantoms.draw(drawn).pixels, ensemble.spec.preprocess.disc_crop or 1
        whole = ensemble.score([pixels])
        places = ([on_disc(drawn)], around_disc(drawn, share), beside_disc(drawn))
        of_places = [ensemble.score(erase(pixels, region) for region in regions) for regions in places]
        moved.append([float(abs(scores - whole).mean()) for scores in of_places])
    return Erased(*np.mean(moved, axis=0).tolist())


def deliver(ensemble: Ensemble, seeds: Sequence[int], cameras: Sequence[Camera]) -> float:
    """Return how far scores move from an eye's mean when each camera delivers it; half have glaucoma."""
    eyes = [eye(seed, RATIOS[0] if seed % 2 else RATIOS[-1]) for seed in seeds]
    return float(np.mean([_movement(ensemble.score(photographs(drawn, cameras))) for drawn in eyes]))


def deliver_even(ensemble: Ensemble, cameras: Sequence[Camera]) -> float:
    """Return how far scores move when each camera delivers an even field: nothing but its border is left."""
    pictures = photographs(eye(0, RATIOS[0]), cameras)
    return _movement(ensemble.score(silhouette(pixels, RETINA) for pixels in pictures))


def _movement(scores: Scores) -> float:
    return float(abs(scores - scores.mean()).mean())


def score_frames(ensemble: Ensemble, folder: Path, count: int) -> Frames:
    """Score `count` photographs of each class, one of each patient, and what their frames alone give."""
    files, truth = choose(folder, count)
    eyes, rows = [phantoms.draw(eye(*each)).pixels for each in FRAMED], []
    for file in files:
        pixels = decode(file.read_bytes())
        same_eyes = ensemble.score(set_into(pixels, phantom) for phantom in eyes)
        rest = ensemble.score((silhouette(pixels, RETINA), pixels))
        rows.append((pixels.shape[1], same_eyes.mean(), *rest))
    width, same_eye, even, whole = np.array(rows).T
    aucs = [auc_delong(truth, column).value for column in (width, same_eye, even, whole)]
    differences = [difference(truth, column) for column in (same_eye, even)]
    return Frames(len(files), aucs[0], differences[0], aucs[1], differences[1], aucs[2], aucs[3])


def difference(truth: NDArray[np.int64], scores: Scores) -> float:
    """Return the mean score of the positives less that of the negatives."""
    return float(scores[truth == 1].mean() - scores[truth == 0].mean())


def choose(folder: Path, count: int) -> tuple[list[Path], NDArray[np.int64]]:
    """Return up to `count` files of each class, and 1 where glaucoma; of a patient one, no exact copies."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as table:
        rows = [row for row in csv.DictReader(table) if not row["exact_duplicate_of"]]
    first = list({row["group"]: row for row in reversed(rows)}.values())[::-1]
    chosen = [row for value in "10" for row in [row for row in first if row["glaucoma"] == value][:count]]
    return [folder / row["image_id"] for row in chosen], np.array([int(row["glaucoma"]) for row in chosen])


def eye(seed: int, ratio: float) -> Plan:
    """Return the phantom `seed` with this cup-to-disc ratio, before `CAMERA`."""
    return replace(phantoms.plan(seed, ratio), camera=CAMERA)


def take(drawn: Plan, camera: Camera) -> Pixels:
    """Return what `camera` delivers, encoded and decoded."""
    return decode(phantoms.encode(phantoms.draw(replace(drawn, camera=camera)).pixels, camera))


def photographs(drawn: Plan, cameras: Sequence[Camera]) -> list[Pixels]:
    """Return what each camera delivers of one eye, and the first one's picture with a black border."""
    pictures = [take(drawn, camera) for camera in cameras]
    return [*pictures, bordered(pictures[0])]


def bordered(pixels: Pixels) -> Pixels:
    """Return the picture with a black border added."""
    border = round(BORDER * pixels.shape[1])
    return np.pad(pixels, ((border, border), (border, border), (0, 0)))


def field_of(pixels: Pixels) -> Region:
    """Return the field of view, its dark parts included, without the glow around it."""
    light = brightest(pixels)
    level = max(MARGIN_LEVEL, GLOW * float(np.median(light[light > MARGIN_LEVEL])))
    lit = cv2.morphologyEx((light > level).astype(np.uint8), cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    outlines, _ = cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(outlines, key=cv2.contourArea)
    return cv2.fillConvexPoly(np.zeros_like(lit), cv2.convexHull(largest), (1,)) > 0


def silhouette(pixels: Pixels, colour: tuple[int, ...]) -> Pixels:
    """Return the picture with its field of view filled evenly: its size, border and margin are left."""
    even = np.full_like(pixels, colour)
    return np.asarray(cv2.copyTo(even, field_of(pixels).astype(np.uint8), pixels.copy()), np.uint8)


def set_into(pixels: Pixels, phantom: Pixels) -> Pixels:
    """Return the picture with its field of view replaced by the phantom's: its size and margin are left."""
    field, seen = field_of(pixels), remove_margin(phantom, MARGIN_LEVEL)
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    eye_only = np.full_like(pixels, RETINA)
    lit = cv2.resize(np.dstack([seen, field_of(seen)]), pixels[box].shape[1::-1])
    cv2.copyTo(np.ascontiguousarray(lit[..., :3]), lit[..., 3], eye_only[box])
    return np.asarray(cv2.copyTo(eye_only, field.astype(np.uint8), pixels.copy()), np.uint8)


def erase(pixels: Pixels, region: Region) -> Pixels:
    """Return the picture with the region filled softly from its surroundings."""
    radius = float(np.sqrt(region.sum() / np.pi))
    known = (~region & (brightest(pixels) > MARGIN_LEVEL)).astype(np.float32)[..., None]
    coarse = cv2.resize(
        np.dstack([pixels * known, known]), None, fx=1 / 4, fy=1 / 4, interpolation=cv2.INTER_AREA
    )
    total = cv2.GaussianBlur(coarse, (0, 0), 0.15 * radius)
    fill = cv2.resize(total[..., :3] / (total[..., 3:] + 1e-6), region.shape[::-1])
    cover = cv2.GaussianBlur(region.astype(np.float32), (0, 0), 0.05 * radius)[..., None]
    return np.asarray(fill * cover + pixels * (1 - cover)).clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
