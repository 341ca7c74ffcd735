"""The statistics of fundus-eval: how fast, in how much memory, beside scikit-learn.

    python benchmarks/evaluation.py [--repeats 3] [--rows 100000] [--resamples 2000]

- bootstrap: the AUC of `--rows` images, two of each patient, on `--resamples` clustered resamples; in turn
  with a plain loop that draws patients and calls scikit-learn's roc_auc_score (a part of the resamples,
  scaled up);
- delong: `auc_delong` on 1 and on 10 million images, plain and clustered, each in a process of its own;
- study: everything about one label (`study_label`) on 1,000 images and on `--rows`;
- command: `fundus-eval auc` on tables of 1 million rows.

Printed, and written with the machine's details to benchmarks/results/evaluation.json.
"""

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import command_line, median_ratio, write_results
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from fundus_eval.auc import auc_delong
from fundus_eval.bootstrap import percentile_interval, resample_counts
from fundus_eval.ranking import Ranking
from fundus_eval.study import Sample
from fundus_eval.studying import study_label

LOOPED = 40  # resamples of scikit-learn's loop that are timed
PROGRAM = Path(sys.executable).with_name("fundus-eval")


def main() -> None:
    """Measure, print, write."""
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--resamples", type=int, default=2000)
    arguments = parser.parse_args()
    content = {
        "bootstrap": bootstrap(arguments),
        "delong": [alone(delong, n, clustered) for n in (10**6, 10**7) for clustered in (False, True)],
        "study": [alone(study, n, arguments.resamples) for n in (1000, arguments.rows)],
        "command": command(10**6),
    }
    for name, found in content.items():
        for row in found if isinstance(found, list) else [found]:
            print(name, *(f"{key}={value}" for key, value in row.items()))
    write_results("evaluation", content, numpy=np.__version__)


def draw(n: int) -> tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.int64]]:
    """Return truth, score and patient of n synthetic images, two of each patient, alike in part."""
    rng, cluster = np.random.default_rng(0), np.arange(n) // 2
    truth = (rng.random(n) < 0.3)[cluster].astype(np.int8)
    logit = truth + rng.standard_normal(n)[cluster] + rng.standard_normal(n)
    return truth, 1 / (1 + np.exp(-logit)), cluster


def bootstrap(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of both ways, and their ratio, in alternating repeats; the first ones don't count."""
    truth, score, cluster = draw(arguments.rows)
    rows: dict[str, Callable[[], float]] = {
        "fundus_eval": lambda: timed(ours, truth, score, cluster, arguments.resamples),
        "roc_auc_score": lambda: (
            timed(scikit_learns, truth, score, cluster, LOOPED) * arguments.resamples / LOOPED
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(arguments.repeats + 1):
        for name, row in rows.items():
            seconds[name].append(round(row(), 2))
    kept = {name: values[1:] for name, values in seconds.items()}
    return {
        "images": arguments.rows,
        "resamples": arguments.resamples,
        "seconds": kept,
        "median_ratio": round(median_ratio(kept["roc_auc_score"], kept["fundus_eval"]), 1),
    }


def ours(
    truth: NDArray[np.int8], score: NDArray[np.float64], cluster: NDArray[np.int64], resamples: int
) -> None:
    """Bootstrap as the package does."""
    ranking = Ranking(truth, score)
    blocks = resample_counts([truth], [cluster], resamples, 0)
    draws = np.concatenate([ranking.roc(weights).auc() for (weights,) in blocks])
    percentile_interval(ranking.roc().auc(), draws)


def scikit_learns(
    truth: NDArray[np.int8], score: NDArray[np.float64], cluster: NDArray[np.int64], resamples: int
) -> None:
    """Bootstrap as a loop: draw patients, take their images, ask scikit-learn."""
    rng, n_patients = np.random.default_rng(0), int(cluster.max()) + 1
    draws = []
    for _ in range(resamples):
        drawn = rng.integers(0, n_patients, n_patients)
        rows = np.concatenate([2 * drawn, 2 * drawn + 1])  # a patient's two images
        draws.append(roc_auc_score(truth[rows], score[rows]))
    np.quantile(draws, (0.025, 0.975))


def delong(n: int, clustered: bool) -> dict[str, Any]:
    """Return what one call of `auc_delong` takes."""
    truth, score, cluster = draw(n)
    seconds = timed(lambda: auc_delong(truth, score, cluster=cluster if clustered else None))
    inputs = (truth, score, cluster)
    return {
        "images": n,
        "clustered": clustered,
        "seconds": round(seconds, 2),
        "max_rss_mb": peak_mb(),
        "inputs_mb": round(sum(each.nbytes for each in inputs) / 2**20),
    }


def study(n: int, resamples: int) -> dict[str, Any]:
    """Return what everything about one label takes."""
    truth, score, cluster = draw(n)
    names, folds = tuple(map(str, range(n))), np.stack([score] * 4, axis=1)
    of = Sample(names, truth, score, folds, cluster, np.zeros(n, bool), {}, None)
    options: tuple[Any, ...] = ("image", "mean", [("given", 0.5)], (0, 0), np.sqrt, (0.1,), (), resamples, 0)
    seconds = timed(lambda: study_label(of, "glaucoma", *options))
    return {"images": n, "resamples": resamples, "seconds": round(seconds, 2), "max_rss_mb": peak_mb()}


def command(n: int) -> dict[str, Any]:
    """Return what the command takes from two files to its lines."""
    truth, score, cluster = draw(n)
    with tempfile.TemporaryDirectory() as name:
        scores, labels = Path(name) / "scores.csv", Path(name) / "labels.csv"
        write(scores, "image_id,probability", (f"{i}.jpg,{value:.6f}" for i, value in enumerate(score)))
        pairs = enumerate(zip(truth.tolist(), cluster.tolist(), strict=True))
        write(
            labels, "image_id,glaucoma,patient_id", (f"{i}.jpg,{value},p{own}" for i, (value, own) in pairs)
        )
        started_s = time.perf_counter()
        process = subprocess.Popen([PROGRAM, "auc", scores, labels], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started_s
    if status:
        raise SystemExit("fundus-eval auc failed; see above.")
    return {"rows": n, "seconds": round(seconds, 2), "max_rss_mb": round(usage.ru_maxrss / 1024)}


def write(path: Path, header: str, lines: Iterator[str]) -> None:
    """Write one table."""
    path.write_text("\n".join([header, *lines]) + "\n")


def timed(call: Callable[..., object], *arguments: object) -> float:
    """Return the seconds of one call."""
    started_s = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started_s


def alone(call: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Return what `call` returns in a fresh process, so that its memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(call, arguments)


def peak_mb() -> int:
    """Return the largest memory that this process had."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
