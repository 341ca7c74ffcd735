"""The entrypoint on a live repository, which `fundus-export deploy` changes while it is served."""

import hashlib
import json
import marshal
import threading
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path

import pytest
from tests.bundles import changed_copy, content
from tests.conftest import command
from tests.docker.conftest import (
    ADMIN_KEY,
    Container,
    folds_per_image,
    loaded,
    models_that_scale,
    started_with,
    write_command,
)
from tests.integration.live_server import ask
from tritonclient.grpc import InferenceServerClient

from fundus_core.ensemble import ADAPTIVE_MODEL, ENSEMBLE_MODEL
from fundus_core.phantoms import encode, plan, render
from fundus_core.repository import PLAN, RECORD
from fundus_export.live import read_live


@pytest.fixture
def live(container: Container, tmp_path: Path, tiny_repository: Path) -> Path:
    """A live repository in place of the container's bundle."""
    bundle = tmp_path / "bundle"
    bundle.unlink()
    deploy(tiny_repository, bundle)
    return bundle


def deploy(*arguments: object) -> None:
    done = command("export", "deploy", *arguments)
    assert done.returncode == 0, done.stderr


def test_it_stays_ready_while_another_bundle_comes(
    container: Container, live: Path, tiny_repository: Path, tmp_path: Path
) -> None:
    left = live / "fundus_fold_0_0a1b2c3d" / "1"  # by a deployment that was killed
    left.mkdir(parents=True)
    before, other = content(live), changed_copy(tiny_repository, tmp_path / "other", 3.0)
    image, ready, ended = encode(render(1).pixels, plan(1).camera), list[int](), threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            ready.append(container.http("v2/health/ready")[0])

    with (
        container.running(FUNDUS_ADMIN_KEY=ADMIN_KEY),
        InferenceServerClient(container.grpc_address) as client,
    ):
        first = ask(client, image)
        assert content(live) == before
        watching = threading.Thread(target=watch)
        watching.start()
        deploy(other, live, "--url", container.grpc_address, "--admin-key", ADMIN_KEY)
        ended.set()
        watching.join()
        second = ask(client, image)
        parts, ensembles = models_that_scale(container)[1:]
    assert len(ready) > 10
    assert set(ready) == {200}
    assert (first.version, second.version) == ("1", "2")
    assert first.numbers != second.numbers
    assert not any(container.models.iterdir())
    state = read_live(live)
    assert ensembles == {ENSEMBLE_MODEL, state.active, state.previous}
    assert len(parts) == 2 * 4


def test_all_its_bundles_are_loaded(
    container: Container, live: Path, tiny_repository: Path, knowing: Path, tmp_path: Path
) -> None:
    deploy(knowing, live)
    deploy(changed_copy(tiny_repository, tmp_path / "other", 3.0), live, "--canary")
    before, state = content(live), read_live(live)
    assert state.active
    adaptive = state.active.replace(ENSEMBLE_MODEL, ADAPTIVE_MODEL)
    assert len(state.bundles) == 3
    assert loaded(started_with(container)) == {ENSEMBLE_MODEL, *state.bundles, adaptive}
    assert content(live) == before


def test_it_asks_fewer_folds(container: Container, live: Path, knowing: Path) -> None:
    deploy(knowing, live)
    with container.running():
        assert folds_per_image(container) == 1


def with_plans(repository: Path, folder: Path) -> Path:
    changed_copy(repository, folder, 3.0)
    for onnx in folder.glob("fundus_fold_*/1/model.onnx"):
        onnx.with_name(PLAN).write_text("plan")
        record = {"plan_sha256": hashlib.sha256(b"plan").hexdigest()}
        onnx.with_name(RECORD).write_text(json.dumps(record))
    return folder


def test_its_plans_are_its_own(container: Container, tiny_repository: Path, tmp_path: Path) -> None:
    live = tmp_path / "with-plans"
    deploy(with_plans(tiny_repository, tmp_path / "other"), live)
    (live / "fundus_fold_0_0a1b2c3d" / "1").mkdir(parents=True)  # by a deployment that was killed
    write_command(container.folder, "fundus-export", '#!/bin/sh\necho fundus-export "$@"\n')
    settings = {"FUNDUS_BUNDLE": str(live), "FUNDUS_TENSORRT": "1"}
    assert "--model-config-name=tensorrt" in started_with(container, **settings)
    lines = container.ended(**settings).stdout.splitlines()
    assert [line for line in lines if line.startswith("fundus-export")] == [f"fundus-export check {live}"]


def test_without_plans_it_says_how_to_have_them(
    container: Container, live: Path, tiny_repository: Path, tmp_path: Path
) -> None:
    deploy(with_plans(tiny_repository, tmp_path / "other"), live)  # the bundle before it has none
    done = container.ended(FUNDUS_TENSORRT="1")
    assert done.returncode == 2
    assert f"fundus_fold_0{(read_live(live).previous or '')[-9:]} has no TensorRT plan" in done.stderr
    assert "`fundus-export tensorrt BUNDLE`" in done.stderr
    assert "or set FUNDUS_TENSORRT=0." in done.stderr


def test_a_live_repository_with_a_changed_file_is_not_served(container: Container, live: Path) -> None:
    (weights,) = live.glob("fundus_fold_1_*/1/model.onnx")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    done = container.ended()
    assert done.returncode == 1
    assert "fundus_fold_1/1/model.onnx was changed" in done.stderr
    assert "Started GRPC" not in done.stdout + done.stderr


def test_a_live_repository_with_compiled_python_is_not_served(
    container: Container, live: Path, tmp_path: Path
) -> None:
    """Unchecked, as here, it would run in place of the source."""
    (source,) = live.glob("fundus_preprocess_*/1/model.py")
    compiled = Path(cache_from_source(str(source)))
    compiled.parent.unlink()
    compiled.parent.mkdir()
    code = compile(f"open({str(tmp_path / 'ran')!r}, 'w')\n{source.read_text()}", str(source), "exec")
    unchecked = (1).to_bytes(4, "little") + bytes(8)
    compiled.write_bytes(MAGIC_NUMBER + unchecked + marshal.dumps(code))
    done = container.ended()
    assert done.returncode == 1
    assert f"fundus_preprocess/1/__pycache__/{compiled.name} does not belong there" in done.stderr
    assert not (tmp_path / "ran").exists()
