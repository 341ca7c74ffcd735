"""The entrypoint on a live repository, which `fundus-export deploy` changes while it is served."""

import threading
from pathlib import Path

import pytest
from tests.bundles import changed_copy, content
from tests.conftest import command
from tests.docker.conftest import ADMIN_KEY, Container, models_that_scale, write_command
from tests.integration.live_server import ask
from tritonclient.grpc import InferenceServerClient

from fundus_core.ensemble import ENSEMBLE_MODEL
from fundus_core.phantoms import encode, plan, render
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


def test_all_its_bundles_are_loaded_and_their_plans_are_their_own(
    container: Container, live: Path, tiny_repository: Path, tmp_path: Path
) -> None:
    for number, options in ((1, ()), (2, ("--canary",))):
        deploy(changed_copy(tiny_repository, tmp_path / str(number), 3.0 + number), live, *options)
    for name in ("fundus-export", "tritonserver"):
        write_command(container.folder, name, f'#!/bin/sh\necho {name} "$@"\n')
    lines = container.ended(FUNDUS_TENSORRT="1").stdout.splitlines()
    assert lines[0] == f"fundus-export check {live}"
    started = lines[-1].split()
    loaded = {each.partition("=")[2] for each in started if each.startswith("--load-model=")}
    assert loaded == {ENSEMBLE_MODEL, *read_live(live).bundles}
    assert len(loaded) == 4
    assert "--model-config-name=tensorrt" in started
    assert not any(line.startswith("fundus-export tensorrt") for line in lines)


def test_a_live_repository_with_a_changed_file_is_not_served(container: Container, live: Path) -> None:
    (weights,) = live.glob("fundus_fold_1_*/1/model.onnx")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    done = container.ended()
    assert done.returncode == 1
    assert "fundus_fold_1/1/model.onnx was changed" in done.stderr
    assert "Started GRPC" not in done.stdout + done.stderr
