"""The reference ensemble on real photographs; skipped, with the reason, where they are not."""

import csv
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tests.conftest import command

from fundus_client.servers import reference_repository
from fundus_core.ensemble import fold_model, read_manifest
from fundus_core.preprocess import preprocess_encoded


@pytest.mark.parametrize("source", ["hygd/images", "airogs-light/glaucoma", "odir-lowres/normal"])
def test_real_photographs_get_the_scores_of_bare_onnxruntime(
    photographs: Path, tmp_path: Path, source: str
) -> None:
    repository, images = reference_repository(), tmp_path / "images"
    images.mkdir()
    for path in sorted((photographs / source).iterdir())[:6]:
        shutil.copy(path, images)
    done = command("client", "score", images, "--output", tmp_path / "scores.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "scores.csv").open(newline="") as file:
        scores = {row["image_id"]: float(row["probability"]) for row in csv.DictReader(file)}
    spec = read_manifest(repository)
    files = sorted(images.iterdir())
    pixels = np.stack([preprocess_encoded(path.read_bytes(), spec.preprocess) for path in files])
    sessions = [
        onnxruntime.InferenceSession(str(repository / fold_model(fold.index) / "1" / "model.onnx"))
        for fold in spec.folds
    ]
    expected = np.mean([session.run(None, {"pixels": pixels})[0][:, 0] for session in sessions], axis=0)
    assert scores == pytest.approx(dict(zip((path.name for path in files), expected, strict=True)), abs=1e-5)
