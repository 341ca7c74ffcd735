"""`fundus-client score` end to end, through the real tritonserver."""

import hashlib
import json
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tests.conftest import COMMANDS, succeed
from tests.integration.conftest import Score, Scored, probabilities, run_score, wait_for

from fundus_client.embedded import EmbeddedServer
from fundus_core.ensemble import IMAGE, PIXELS, PREPROCESS_MODEL, EnsembleSpec, read_manifest
from fundus_core.preprocess import preprocess_encoded
from fundus_core.quality import MEASURES
from fundus_core.reading import read_labels

OF_LABEL = ("probability", "fold_0", "fold_1", "spread", "decision")
COLUMNS = ("image_id", "sha256", "status", "reason", "ungradable", *OF_LABEL, *MEASURES, "bundle_digest")


@pytest.fixture(scope="module")
def spec(tiny_repository: Path) -> EnsembleSpec:
    return read_manifest(tiny_repository)


@pytest.fixture(scope="module")
def labels(phantom_folder: Path) -> Path:
    return phantom_folder / "labels.csv"


@pytest.fixture(scope="module")
def embedded(
    tmp_path_factory: pytest.TempPathFactory,
    server: EmbeddedServer,
    phantom_folder: Path,
    tiny_repository: Path,
    labels: Path,
) -> Scored:
    """The phantoms, scored by a server that the command starts itself."""
    arguments = (phantom_folder, "--repository", tiny_repository, "--labels", labels)
    return run_score(tmp_path_factory.mktemp("embedded"), *arguments)


def test_columns_and_order(embedded: Scored, phantom_folder: Path) -> None:
    assert embedded.code == 0
    assert embedded.output.read_text().splitlines()[0].split(",") == list(COLUMNS)
    images = [path.name for path in phantom_folder.iterdir() if path.name != "labels.csv"]
    assert [row["image_id"] for row in embedded.rows] == sorted(images)


def test_rows(embedded: Scored, phantom_folder: Path, spec: EnsembleSpec) -> None:
    for row in embedded.rows:
        mean, *folds = probabilities(row)
        assert row["sha256"] == hashlib.sha256((phantom_folder / row["image_id"]).read_bytes()).hexdigest()
        assert (row["status"], row["reason"], row["bundle_digest"]) == ("scored", "", spec.digest)
        assert mean == pytest.approx(np.mean(folds), abs=1e-6)
        assert float(row["spread"]) == pytest.approx(max(folds) - min(folds), abs=1e-6)
        assert row["decision"] == str(int(mean >= spec.thresholds[0]))


def test_run_json(embedded: Scored, spec: EnsembleSpec, labels: Path) -> None:
    run = json.loads(embedded.output.with_name("run.json").read_text())
    assert run["counts"] | {"wall_s": 0} == {
        "n_files": 48,
        "n_scored": 48,
        "n_ungradable": 0,
        "n_earlier": 0,
        "n_failed": 0,
        "reasons": {},
        "wall_s": 0,
    }
    assert run["bundle"]["digest"] == spec.digest
    assert run["arguments"]["labels"] == str(labels)
    assert run["images_per_s"] == pytest.approx(48 / run["counts"]["wall_s"])
    assert run["evaluation"]["n"] == 48
    assert EnsembleSpec.from_json(json.dumps(run["manifest"])) == spec
    assert [each["measure"] for each in run["shift"]] == ["score:glaucoma", *MEASURES]


def test_output_is_parseable_and_quiet(embedded: Scored) -> None:
    assert embedded.stderr == ""
    lines = embedded.stdout.splitlines()
    assert re.fullmatch(r"scored 48 of 48 files in [\d.]+ s, [\d.]+ images/s", lines[0])
    assert lines[-2:] == [
        f"table  {embedded.output}",
        f"run    {embedded.output.with_name('run.json')}",
    ]


def test_auc_is_that_of_fundus_eval(embedded: Scored, labels: Path, spec: EnsembleSpec) -> None:
    lines = succeed("eval", "auc", embedded.output, labels, "--threshold", spec.thresholds[0])
    assert re.search(r"AUC +[\d.]+ \[[\d.]+, [\d.]+\]", lines)
    assert lines in embedded.stdout


def test_photographs_like_those_of_the_training_bring_no_warning(
    embedded: Scored, tmp_path: Path, server: EmbeddedServer, score: Score, photos: list[Path]
) -> None:
    assert "Warning" not in embedded.stderr
    for path in photos:
        darker = cv2.convertScaleAbs(cv2.imread(str(path)), alpha=0.4)
        cv2.imwrite(str(tmp_path / path.name), darker)
    said = score(tmp_path, "--url", server.grpc_address).stderr
    assert re.search(r"Warning: .*differ from those of the training in .*brightness \(median 0", said)


def test_calibrated_probabilities_are_a_column_more(
    embedded: Scored, phantom_folder: Path, spec: EnsembleSpec, server: EmbeddedServer, score: Score
) -> None:
    done = score(phantom_folder, "--url", server.grpc_address, "--calibrated")
    for row in done.rows:
        expected = spec.calibrators[0](float(row["probability"]))
        assert float(row.pop("calibrated")) == pytest.approx(expected, rel=1e-6)
    assert done.rows == embedded.rows


def test_a_second_run_gives_the_same_bytes(
    embedded: Scored, phantom_folder: Path, server: EmbeddedServer, score: Score
) -> None:
    again = score(phantom_folder, "--url", server.grpc_address)
    assert again.output.read_bytes() == embedded.output.read_bytes()


def test_bad_files_leave_good_scores_alone(
    tmp_path: Path, embedded: Scored, phantom_folder: Path, server: EmbeddedServer, score: Score
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in phantom_folder.glob("*.*"):
        (folder / path.name).symlink_to(path)
        (folder / f"{path.stem}-bad.jpg").write_text("no image")
    done = score(folder, "--url", server.grpc_address)
    assert done.code == 3
    good = [row for row in done.rows if row["status"] == "scored"]
    assert good == embedded.rows


def test_identical_images_get_identical_scores(
    tmp_path: Path, phantom_folder: Path, server: EmbeddedServer, score: Score
) -> None:
    first, *others = sorted(phantom_folder.glob("*.jpg"))
    folder = tmp_path / "copies"
    folder.mkdir()
    for number in range(20):  # among different neighbours, so in batches of different content and size
        (folder / f"{number:02}-copy.jpg").write_bytes(first.read_bytes() + b"%d" % number)
        (folder / f"{number:02}-other.jpg").symlink_to(others[number % len(others)])
    line = (folder, "--fresh", "--url", server.grpc_address, "--in-flight")
    runs = [score(*line, n) for n in (1, 5, 64)]
    copies = [row for run in runs for row in run.rows if row["image_id"].endswith("-copy.jpg")]
    assert len(copies) == 60
    assert max(map(probabilities, copies)) == pytest.approx(min(map(probabilities, copies)), abs=1e-6)


def test_scores_equal_bare_onnxruntime(
    embedded: Scored, phantom_folder: Path, tiny_repository: Path, spec: EnsembleSpec
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    images = [(phantom_folder / row["image_id"]).read_bytes() for row in embedded.rows]
    pixels = np.stack([preprocess_encoded(image, spec.preprocess) for image in images])
    models = [tiny_repository / f"fundus_fold_{fold.index}" / "1" / "model.onnx" for fold in spec.folds]
    folds = [onnxruntime.InferenceSession(model).run(None, {PIXELS: pixels})[0][:, 0] for model in models]
    expected = np.stack([np.mean(folds, axis=0), *folds], axis=1)
    np.testing.assert_allclose(list(map(probabilities, embedded.rows)), expected, atol=1e-5)


def test_served_pixels_are_those_of_core(
    server: EmbeddedServer, phantom_folder: Path, spec: EnsembleSpec
) -> None:
    images = [path.read_bytes() for path in sorted(phantom_folder.glob("*.[jpb]*"))[:8]]
    tensor = grpcclient.InferInput(IMAGE, [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object).reshape(-1, 1))
    with grpcclient.InferenceServerClient(server.grpc_address) as client:
        served = client.infer(PREPROCESS_MODEL, [tensor]).as_numpy(PIXELS)
    expected = np.stack([preprocess_encoded(image, spec.preprocess) for image in images])
    np.testing.assert_array_equal(served, expected)


def test_a_full_queue_is_waited_for(
    tmp_path: Path, embedded: Scored, phantom_folder: Path, tiny_repository: Path, score: Score
) -> None:
    """A server that queues four images answers "try again" to most of a window of 64.

    Only the queue at the door: tritonserver 2.51 loses answers when an inner model's is full (core #466).
    """
    repository = shutil.copytree(tiny_repository, tmp_path / "repository")
    succeed("export", "configs", repository, "--set", "max_queued=4")
    done = score(phantom_folder, "--repository", repository)
    assert (done.code, done.rows) == (0, embedded.rows)


def test_url_and_repository_exclude_each_other(phantom_folder: Path, tmp_path: Path, score: Score) -> None:
    done = score(phantom_folder, "--url", "localhost:8001", "--repository", tmp_path)
    assert done.code == 2
    assert "exclude each other" in done.stderr


def test_labels_are_read_with_the_ensembles_names(labels: Path, spec: EnsembleSpec) -> None:
    assert read_labels(labels, spec.labels).labels == ("glaucoma",)


def test_serve_for_others(
    tmp_path: Path, embedded: Scored, phantom_folder: Path, tiny_repository: Path, score: Score
) -> None:
    ports = _free_ports(3)
    options = zip(("--grpc-port", "--http-port", "--metrics-port"), map(str, ports), strict=True)
    line = [COMMANDS / "fundus-client", "serve", "--repository", tiny_repository, *sum(options, ())]
    log = tmp_path / "serve.log"
    with log.open("w") as stderr, subprocess.Popen(list(map(str, line)), stderr=stderr) as serving:
        try:
            wait_for(lambda: "Serving tiny" in log.read_text() or serving.poll() is not None)
            done = score(phantom_folder, "--url", f"localhost:{ports[0]}", "--wait", 10)
            serving.send_signal(signal.SIGINT)
            code = serving.wait(30)
        finally:
            serving.terminate()
    assert (done.code, done.rows) == (0, embedded.rows)
    assert code == 0
    assert "Traceback" not in log.read_text()


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
