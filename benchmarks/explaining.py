"""Which maps are worth more for as many questions: RISE or occlusion?

    python benchmarks/explaining.py DATA [--repository DIR] [--count 2]

DATA holds the folders hygd and airogs-light; `--count` photographs of each class of each are explained, by
bare onnxruntime sessions. Printed, for each method and number of masks: the rank correlation of two maps
(other masks: another seed, a grid moved by half a step), and the mean probability of the predicted class
while the places that a map names first are blurred (deletion; Petsiuk et al. 2018: less is better). "random"
is a smooth map of nothing.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from what_it_looks_at import Ensemble, Scores, choose

from fundus_client.explaining.area import Subject
from fundus_client.explaining.masks import MAP_CELLS, Covers, Heat, heat_map, random_covers
from fundus_client.servers import reference_repository
from fundus_core.images import decode
from fundus_core.preprocess import Pixels, remove_margin

RESULTS = Path(__file__).parent / "results" / "explaining.json"
REMOVED = (0.05, 0.1, 0.2, 0.3, 0.5)  # shares of the area
SOFT = 0.25  # edge of a window, as a share of its radius
WIDTH_PX = 900  # photographs are reduced to this: all methods see the same


@dataclass(frozen=True)
class Worth:
    """What maps of one method are worth."""

    stability: float
    deletion: float


def main() -> None:
    """Measure, print, write."""
    arguments = parse()
    ensemble, found = Ensemble.load(arguments.repository), dict[str, list[tuple[float, float]]]()
    for file in photographs(arguments.data, arguments.count):
        for method, worth in worths(ensemble, reduced(decode(file.read_bytes()))).items():
            found.setdefault(method, []).append((worth.stability, worth.deletion))
    figures = {method: Worth(*np.mean(each, axis=0).round(3).tolist()) for method, each in found.items()}
    for method, worth in figures.items():
        print(f"{method:18} stability {worth.stability:5.2f}  deletion {worth.deletion:.3f}")
    n_photographs = len(next(iter(found.values())))
    content = {"bundle": ensemble.spec.digest, "n_photographs": n_photographs}
    RESULTS.write_text(json.dumps(content | {k: vars(v) for k, v in figures.items()}, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--repository", type=Path, default=reference_repository())
    parser.add_argument("--count", type=int, default=2, help="photographs of each class and source")
    return parser.parse_args()


def photographs(data: Path, count: int) -> list[Path]:
    """Return files of both sources and classes."""
    airogs = [sorted((data / "airogs-light" / name).iterdir())[:count] for name in ("glaucoma", "normal")]
    return [*choose(data / "hygd", count)[0], *airogs[0], *airogs[1]]


def reduced(pixels: Pixels) -> Pixels:
    """Return the photograph without its margin, at most `WIDTH_PX` wide."""
    field = remove_margin(pixels, 16)
    scale = min(1, WIDTH_PX / max(field.shape[:2]))
    return np.asarray(cv2.resize(field, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def worths(ensemble: Ensemble, pixels: Pixels) -> dict[str, Worth]:
    """Make two maps of each method, and measure them."""
    subject = Subject.of(pixels, ensemble.spec.preprocess)
    whole = float(ensemble.score([pixels])[0])
    masked = {
        ("RISE", 400): [random_covers(400, seed) for seed in (0, 1)],
        ("occlusion", 200): [windows(16, moved) for moved in (0, 0.5)],
        ("occlusion", 400): [windows(23, moved) for moved in (0, 0.5)],
    }
    maps: dict[str, list[Heat]] = {"random": [noise(seed) for seed in (0, 1)]}
    for (method, n_masks), pair in masked.items():
        answers = [ask(ensemble, subject, covers) for covers in pair]
        if method == "RISE":
            for n in (100, 200, 400):
                maps[f"RISE {n}"] = [heat_map(a[:n], c[:n]) for a, c in zip(answers, pair, strict=True)]
        else:
            maps[f"occlusion {n_masks}"] = [drop(whole - a, c) for a, c in zip(answers, pair, strict=True)]
    seen = subject.area.seen(MAP_CELLS)
    return {name: measured(ensemble, subject, whole, pair, seen) for name, pair in maps.items()}


def measured(
    ensemble: Ensemble, subject: Subject, whole: float, pair: list[Heat], seen: NDArray[np.bool_]
) -> Worth:
    """Return what two maps of one method are worth."""
    first, second = (heat[seen] for heat in pair)
    deletions = [deletion(ensemble, subject, whole, heat, seen) for heat in pair]
    return Worth(float(spearmanr(first, second).statistic), float(np.mean(deletions)))


def ask(ensemble: Ensemble, subject: Subject, covers: Covers) -> Scores:
    """Return the answers (N,) to masked photographs."""
    return ensemble.score(subject.hidden(cover) for cover in covers)


def windows(n_across: int, moved: float) -> Covers:
    """Return occluding windows (N, G, G): discs of a third of the area's radius, on a grid."""
    line = (np.arange(MAP_CELLS) + 0.5) / MAP_CELLS * 2 - 1
    centres = (np.arange(n_across) + 0.5 + moved) / n_across * 2 - 1
    radius = 1 / 3
    places = [(x, y) for y in centres for x in centres if np.hypot(x, y) <= 1]
    away = (np.hypot(line[None] - x, line[:, None] - y) for x, y in places)
    return np.stack([np.clip((1 - each / radius) / SOFT + 0.5, 0, 1) for each in away]).astype(np.float32)


def drop(dropped: Scores, covers: Covers) -> Heat:
    """Return the mean drop of the probability where a place was hidden (G, G)."""
    return np.asarray(np.tensordot(dropped, covers, 1) / covers.sum(axis=0).clip(1e-6), np.float64)


def noise(seed: int) -> Heat:
    """Return a smooth map of nothing (G, G)."""
    coarse = np.random.default_rng(seed).standard_normal((7, 7))
    return np.asarray(cv2.resize(coarse, (MAP_CELLS, MAP_CELLS), interpolation=cv2.INTER_CUBIC), np.float64)


def deletion(
    ensemble: Ensemble, subject: Subject, whole: float, heat: Heat, seen: NDArray[np.bool_]
) -> float:
    """Return the mean probability of the predicted class while more and more of the area is blurred."""
    speaks = np.where(seen, heat if whole >= 0.5 else -heat, -np.inf)
    removed = [(speaks >= np.quantile(speaks[seen], 1 - share)).astype(np.float32) for share in REMOVED]
    answers = np.array([whole, *ensemble.score(map(subject.hidden, removed))])
    predicted = answers if whole >= 0.5 else 1 - answers
    shares = np.array([0, *REMOVED])
    return float((np.diff(shares) * (predicted[1:] + predicted[:-1]) / 2).sum() / shares[-1])


if __name__ == "__main__":
    main()
