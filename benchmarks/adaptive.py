"""What `fundus-client score --adaptive` spares and what it costs, beside all folds on the same server.

    python benchmarks/adaptive.py --images data --labels runs/mine/split.csv

Both score the same photographs in turn, each repeat in the other order. Of a training run's split.csv only
the inner test is taken: no fold was trained on it, so folds differ there as they do on new photographs. The
bundle's margin was chosen on those of its own run; on others the figures owe nothing to that choice.

Prints the figures and writes benchmarks/results/adaptive.json.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from machine import command_line, median_ratio, write_results

from fundus_client.embedded import embedded_server
from fundus_client.servers import reference_repository
from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import FundusError, LabelsError
from fundus_core.files import run_json_path
from fundus_core.reading import read_labels, read_scores
from fundus_core.repository import check_repository
from fundus_core.sheet import read_sheet
from fundus_core.tables import LabelTable, join
from fundus_eval.auc import delong_test
from fundus_eval.intervals import design_effect, wilson
from fundus_eval.units import sample_of

WAYS: dict[str, tuple[str, ...]] = {"full": (), "adaptive": ("--adaptive",)}


def main() -> None:
    """Read the arguments, score, judge and write."""
    parser = command_line(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder that the image_id are relative to")
    parser.add_argument("--labels", type=Path, required=True, help="table of image_id, labels and patient_id")
    parser.add_argument("--repository", type=Path, default=reference_repository())
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    spec = check_repository(given.repository)
    with tempfile.TemporaryDirectory() as folder:
        n_images = link(given.images, wanted(given.labels), Path(folder) / "images")
        speeds, folds = scored_in_turn(given.repository, Path(folder), given.repeats)
        judged = judge(Path(folder), read_labels(given.labels, spec.labels), spec)
    content = {
        "command": f"benchmarks/adaptive.py --images DATA --labels RUN/split.csv --repeats {given.repeats}",
        "bundle": spec.title,
        "n_images": n_images,
        "folds_per_image": folds,
        "images_per_s": speeds,
        "adaptive_over_full": median_ratio(speeds["adaptive"], speeds["full"]),
        "labels": judged,
    }
    write_results("adaptive", content)
    print(json.dumps(content, indent=2))


def wanted(labels: Path) -> Sequence[str]:
    """Return the ids of a table; of a training run's split those of its inner test."""
    sheet = read_sheet(labels, LabelsError)
    ids = sheet.texts("image_id")
    if "part" not in sheet.columns:
        return ids
    return [name for name, part in zip(ids, sheet.texts("part"), strict=True) if part == "test"]


def link(images: Path, ids: Sequence[str], folder: Path) -> int:
    """Make a folder that holds links to these images alone; return how many there are."""
    for image_id in ids:
        place = folder / image_id
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to((images / image_id).resolve(strict=True))
    return len(ids)


def scored_in_turn(
    repository: Path, folder: Path, repeats: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Write the table of each way to `folder`; return the images/s of each repeat, and the folds an image."""
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    folds: dict[str, float] = {}
    with embedded_server(repository, adaptive=True) as server:
        for repeat in range(repeats):
            for way in list(WAYS)[:: -1 if repeat % 2 else 1]:
                said = score(folder, way, server.grpc_address)
                speeds[way].append(said["images_per_s"])
                folds[way] = said["folds_per_image"]
                print(f"{way:<9}{said['images_per_s']:6.1f} images/s", file=sys.stderr)
    return speeds, folds


def score(folder: Path, way: str, address: str) -> dict[str, Any]:
    """Run the command; return what its run.json says."""
    program = Path(sys.executable).with_name("fundus-client")
    output = folder / way / "scores.csv"
    output.parent.mkdir(exist_ok=True)
    line = [program, "score", folder / "images", "--output", output, "--url", address, "--fresh", *WAYS[way]]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    if done.returncode:
        raise FundusError(f"`fundus-client score` did not score every photograph: {done.stdout}{done.stderr}")
    return dict(json.loads(run_json_path(output).read_text()))


def judge(folder: Path, labels: LabelTable, spec: EnsembleSpec) -> dict[str, Any]:
    """Return for each label the difference of the AUC, and how many decisions differ."""
    full, fewer = (join(read_scores(folder / way / "scores.csv"), labels) for way in WAYS)
    found: dict[str, Any] = {}
    for k, label in enumerate(spec.labels):
        before, after = sample_of(full, k), sample_of(fewer, k)
        changed = np.not_equal(*(each.score >= spec.thresholds[k] for each in (before, after)))
        effect, n_changed = design_effect(changed, before.cluster), int(changed.sum())
        share = wilson(n_changed, len(changed), design_effect=effect)
        test = delong_test(before.truth, before.score, after.score, cluster=before.cluster)
        found[label] = {
            "n": len(changed),
            "n_patients": before.n_patients,
            "changed": n_changed,
            "changed_share": share and asdict(share),
            "auc_difference": asdict(test.difference),
        }
    return found


if __name__ == "__main__":
    main()
