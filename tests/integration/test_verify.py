"""`fundus-client verify` through the real tritonserver, and what no server is started with."""

import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from tests.bundles import cover_traces, squeezed
from tests.conftest import command
from tests.integration.conftest import Score

from fundus_client.embedded import EmbeddedServer, embedded_server
from fundus_core.ensemble import MODEL_ONNX, fold_model, read_manifest, write_manifest
from fundus_core.repository import check_repository, digests, write_rendered
from fundus_core.serving import Serving


@pytest.fixture
def copy(tiny_repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_repository, tmp_path / "copy"))


def with_another_weight(repository: Path) -> None:
    """Change a fold's last weights and the manifest with them: golden answers are all that could tell."""
    path = repository / fold_model(0) / MODEL_ONNX
    model = onnx.load(path)
    name = next(node for node in model.graph.node if node.op_type == "Gemm").input[1].removesuffix("_float16")
    tensor = next(each for each in model.graph.initializer if each.name.startswith(name))
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(values * values.dtype.type(2), tensor.name))
    onnx.save(model, path)
    spec = read_manifest(repository)
    spec = replace(spec, files=digests(repository, (repository / name for name in spec.files)))
    write_manifest(spec, repository)
    write_rendered(repository, spec, Serving())


def test_a_running_server_answers_as_pytorch_did(server: EmbeddedServer, tiny_repository: Path) -> None:
    done = command("client", "verify", "--url", server.grpc_address, "--repository", tiny_repository)
    assert done.returncode == 0, done.stderr
    names = [line[12:24].strip() for line in done.stdout.splitlines()]
    assert names == ["images", "precision", "mean |dp|", "max |dp|", "repeats", "flipped"]
    assert done.stdout.splitlines()[0].split() == ["PyTorch", "images", "16"]
    assert "BROKEN" not in done.stdout


def test_golden_answers_of_another_bundle_are_refused(server: EmbeddedServer, copy: Path) -> None:
    with_another_weight(copy)
    done = command("client", "verify", "--url", server.grpc_address, "--repository", copy)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Give --repository, a copy of the bundle that the server serves." in done.stderr


def test_a_server_that_answers_otherwise_breaks_the_limits(copy: Path) -> None:
    with_another_weight(copy)
    done = command("client", "verify", "--repository", copy)
    assert done.returncode == 1, done.stderr
    assert next(line for line in done.stdout.splitlines() if "max |dp|" in line).endswith("BROKEN")


def test_an_int8_server_repeats_the_answers_of_its_graphs(
    int8_repository: Path, phantom_folder: Path
) -> None:
    own = ("--images", phantom_folder, "--labels", phantom_folder / "labels.csv")
    done = command("client", "verify", "--repository", int8_repository, *own)
    lines = {(line[:12].strip(), line[12:24].strip()): line[24:] for line in done.stdout.splitlines()}
    assert lines["PyTorch", "images"] == lines["graphs", "images"] == "64"
    assert lines["graphs", "max |dp|"].endswith("limit 0.02  ok")
    assert lines["graphs", "flipped"] == "0 of 64  limit 0  ok"
    assert "limit" not in lines["PyTorch", "max |dp|"] + lines["PyTorch", "flipped"]
    assert "  limit 0.01  " in lines["PyTorch", "AUC change"]  # of photographs with labels


@pytest.mark.parametrize(("factor", "offset"), [(0.3, 0.05), (0.0, 0.9)])
def test_an_int8_server_that_answers_otherwise_breaks_the_limits(
    factor: float, offset: float, int8_repository: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(int8_repository, tmp_path / "copy"))
    for fold in read_manifest(copy).folds:
        path = copy / fold_model(fold.index) / MODEL_ONNX
        onnx.save(squeezed(onnx.load(path), factor, offset), path)
    cover_traces(copy, read_manifest(copy))
    done = command("client", "verify", "--repository", copy)
    assert done.returncode == 1, done.stderr
    broken = [line for line in done.stdout.splitlines() if line.endswith("BROKEN")]
    assert any(line.startswith("graphs      max |dp|") for line in broken)
    assert {line[:12].strip() for line in broken} == {"graphs"}
    assert "AUC change" not in done.stdout  # phantoms cannot tell


def test_labels_without_images_are_refused(tiny_repository: Path, phantom_folder: Path) -> None:
    labels = ("--labels", phantom_folder / "labels.csv")
    done = command("client", "verify", "--repository", tiny_repository, *labels)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--labels says what is true of --images. Give both, or neither." in done.stderr


@pytest.mark.parametrize("arguments", [("verify",), ("score", "IMAGES")])
def test_a_changed_file_is_named_and_nothing_is_started(
    arguments: tuple[str, ...], copy: Path, phantom_folder: Path, tmp_path: Path
) -> None:
    with (copy / "fundus_average" / "1" / "model.py").open("a") as file:
        file.write("open('/tmp/run', 'w')\n")
    line = [str(phantom_folder) if each == "IMAGES" else each for each in arguments]
    done = command("client", *line, "--repository", copy, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "fundus_average/1/model.py was changed" in done.stderr
    assert not (tmp_path / "scores.csv").exists()


def test_serving_leaves_a_repository_as_it_was(copy: Path, phantom_folder: Path, score: Score) -> None:
    before = sorted(copy.rglob("*"))
    assert score(phantom_folder, "--repository", copy).code == 0
    assert sorted(copy.rglob("*")) == before
    check_repository(copy)


def test_a_repository_may_be_read_only(copy: Path) -> None:
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with embedded_server(copy) as server:
        assert server.is_alive()
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o755)
