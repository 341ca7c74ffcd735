"""docker/server/entrypoint.sh, run for real with the wheel's tritonserver in place of the image's.

No Docker engine runs here, so /bundle, /models and /tls are folders of the test, and the models are served by
the Python backend (`--model-config-name embedded`), which is all that the wheel's server has.
"""

import hashlib
import importlib.util
import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import grpc
import pytest
from tests.certificates import OURS, THEIRS, issue
from tests.conftest import COMMANDS, command, succeed
from tests.docker.conftest import (
    ADMIN_KEY,
    ENTRYPOINT,
    ROOT,
    Container,
    folds_per_image,
    loaded,
    models_that_scale,
    started_with,
    write_command,
)
from tests.integration.conftest import read_rows
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from fundus_core.ensemble import ADAPTIVE_MODEL, ENSEMBLE_MODEL
from fundus_core.limits import usable_cores
from fundus_core.serving import MOST_PREPROCESSING, read_serving
from fundus_core.tls import Tls

ADMIN = {
    "SystemSharedMemoryStatus": messages.SystemSharedMemoryStatusRequest(),
    "RepositoryIndex": messages.RepositoryIndexRequest(),
    "ModelStatistics": messages.ModelStatisticsRequest(),
    "TraceSetting": messages.TraceSettingRequest(),
    "LogSettings": messages.LogSettingsRequest(),
}
ADMIN_PATHS = ["v2", "v2/models/fundus_ensemble", "v2/models/fundus_ensemble/config", "v2/models/stats"]


def call(stub: GRPCInferenceServiceStub, name: str, key: str | None = None) -> grpc.StatusCode:
    """Return how the server answers to an admin call."""
    metadata = [("triton-grpc-protocol-fundus-admin-key", key)] if key else []
    try:
        getattr(stub, name)(ADMIN[name], timeout=10, metadata=metadata)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def is_ready(address: str, credentials: grpc.ChannelCredentials | None = None) -> bool:
    made = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with made as channel:
        try:
            stub = GRPCInferenceServiceStub(channel)
            return bool(stub.ServerReady(messages.ServerReadyRequest(), timeout=10).ready)
        except grpc.RpcError:
            return False


def test_it_scores_and_ends_cleanly(container: Container, tmp_path: Path) -> None:
    command("client", "sample", tmp_path / "images", "--count", 2)
    with container.running() as process:
        output = tmp_path / "scores.csv"
        done = command(
            "client", "score", tmp_path / "images", "--output", output, "--url", container.grpc_address
        )
        assert done.returncode == 0, done.stderr
        assert [row["status"] for row in read_rows(output)] == ["scored"] * 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
    log = container.log.read_text()
    assert "gRPC is not encrypted" in log
    assert "All models are stopped" in log


def serve_instead(container: Container, bundle: Path) -> None:
    (container.folder / "bundle").unlink()
    (container.folder / "bundle").symlink_to(bundle)


def test_it_asks_fewer_folds(container: Container, knowing: Path) -> None:
    serve_instead(container, knowing)
    with container.running():
        assert folds_per_image(container) == 1


def test_a_bundle_after_another_is_loaded_without_what_it_lacks(
    container: Container, knowing: Path, tiny_repository: Path
) -> None:
    serve_instead(container, knowing)
    assert loaded(started_with(container)) == {ENSEMBLE_MODEL, ADAPTIVE_MODEL}
    serve_instead(container, tiny_repository)
    assert loaded(started_with(container)) == {ENSEMBLE_MODEL}


@pytest.mark.parametrize(
    ("gpu", "said", "cores"), [(None, 0, usable_cores()), ("a GPU", 0, 0), (None, 7, 7), ("a GPU", 7, 7)]
)
def test_settings_fit_the_machine_and_without_a_gpu_the_folds_share_its_cores(
    container: Container, tmp_path: Path, tiny_repository: Path, gpu: str | None, said: int, cores: int
) -> None:
    bundle = shutil.copytree(tiny_repository, tmp_path / "own")
    serve_instead(container, bundle)
    succeed("export", "configs", bundle, "--set", f"cores={said}", "--set", "max_queued=99")
    driver = f"import fundus_export.toolchain as it\nit.find_gpu = lambda: {gpu!r}\n"
    (tmp_path / "sitecustomize.py").write_text(driver)
    started_with(container, PYTHONPATH=str(tmp_path))
    serving = read_serving(container.models)
    assert (serving.cores, serving.max_queued) == (cores, 99)
    assert serving.preprocess_instances == min(usable_cores(), MOST_PREPROCESSING)
    assert "unchanged" in succeed("export", "check", container.models)
    for fold in container.models.glob("fundus_fold_*/config.pbtxt"):
        assert ("intra_op_thread_count" in fold.read_text()) == bool(cores)


@pytest.mark.parametrize("name", ADMIN)
def test_grpc_admin_calls_need_the_key(served: Container, name: str) -> None:
    with grpc.insecure_channel(served.grpc_address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert call(stub, name) == grpc.StatusCode.UNAVAILABLE
        assert call(stub, name, "another") == grpc.StatusCode.UNAVAILABLE
        assert call(stub, name, ADMIN_KEY) == grpc.StatusCode.OK


@pytest.mark.parametrize("path", ADMIN_PATHS)
def test_http_is_for_health_checks(served: Container, path: str) -> None:
    assert served.http("v2/health/live")[0] == 200
    assert served.http(path)[0] == 403
    assert served.http(path, **{"fundus-admin-key": ADMIN_KEY})[0] == 200


def test_without_a_key_the_admin_calls_stay_closed(container: Container) -> None:
    with container.running(FUNDUS_ADMIN_KEY=""), grpc.insecure_channel(container.grpc_address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert call(stub, "RepositoryIndex") == grpc.StatusCode.UNAVAILABLE
        assert container.http("v2", **{"fundus-admin-key": ""})[0] == 403


def test_the_metrics_that_scale_it_exist(served: Container) -> None:
    parts = {"fundus_preprocess", "fundus_fold_0", "fundus_fold_1", "fundus_average"}
    assert models_that_scale(served) == [{"fundus_preprocess"}, parts, {"fundus_ensemble"}]


def test_the_health_check_of_the_image(served: Container, container: Container) -> None:
    dockerfile = (ROOT / "docker/server/Dockerfile").read_text()
    found = re.search(r"^HEALTHCHECK .*?CMD (\[.*?\])$", dockerfile, re.MULTILINE | re.DOTALL)
    assert found
    for port, healthy in ((served.ports["http"], True), (container.ports["http"], False)):
        check = [part.replace("8000", str(port)) for part in json.loads(found[1])]
        assert (subprocess.run(check).returncode == 0) == healthy


def test_a_changed_bundle_is_not_served(container: Container, tmp_path: Path, tiny_repository: Path) -> None:
    (tmp_path / "bundle").unlink()
    shutil.copytree(tiny_repository, tmp_path / "bundle")
    weights = tmp_path / "bundle/fundus_fold_1/1/model.onnx"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    done = container.ended()
    assert done.returncode == 1
    assert "fundus_fold_1/1/model.onnx was changed" in done.stderr
    assert "Started GRPC" not in done.stdout + done.stderr


def test_a_restart_keeps_plans_and_nothing_else(container: Container) -> None:
    fold = container.models / "fundus_fold_0" / "1"
    earlier = "from an earlier start"
    record = json.dumps({"plan_sha256": hashlib.sha256(earlier.encode()).hexdigest()})
    kept = {fold / "model.plan": earlier, fold / "model.plan.json": record}
    kept[container.models / "timing-x.cache"] = earlier
    stale = {fold / "__pycache__" / "model.cpython-312.pyc": earlier, fold / "extra.py": earlier}
    for path, text in (kept | stale).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_command(container.folder, "tritonserver", "#!/bin/sh\n")
    done = container.ended()
    assert done.returncode == 0, done.stderr
    assert all(path.read_text() == text for path, text in kept.items())
    assert not any(path.exists() for path in stale)


@pytest.mark.parametrize("name", ["__pycache__/model.cpython-312.pyc", "model.plan"])
def test_what_another_machine_made_is_left_out(
    container: Container, tmp_path: Path, tiny_repository: Path, name: str
) -> None:
    (tmp_path / "bundle").unlink()
    shutil.copytree(tiny_repository, tmp_path / "bundle", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "bundle" / "fundus_fold_0" / "1" / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    write_command(container.folder, "tritonserver", "#!/bin/sh\n")
    done = container.ended()
    assert done.returncode == 0, done.stderr
    assert (container.models / "fundus_fold_0/1/model.onnx").exists()
    assert not list(container.models.rglob(path.name))


def put_certificate(container: Container) -> None:
    for path, name in zip(issue(container.folder, "server", OURS, "localhost"), ("crt", "key"), strict=True):
        path.rename(container.folder / "tls" / f"tls.{name}")


def test_tls_by_files(container: Container, tmp_path: Path) -> None:
    put_certificate(container)
    with container.running():
        assert is_ready(container.grpc_address, grpc.ssl_channel_credentials(OURS.cert_pem.bytes()))
        assert not is_ready(container.grpc_address, grpc.ssl_channel_credentials(THEIRS.cert_pem.bytes()))
        assert not is_ready(container.grpc_address)


def test_mutual_tls_by_files(container: Container, tmp_path: Path) -> None:
    put_certificate(container)
    authority = tmp_path / "tls" / "client-ca.crt"
    OURS.cert_pem.write_to_path(authority)
    with container.running():
        client = issue(tmp_path, "client", OURS, "client.example")
        assert is_ready(container.grpc_address, Tls(authority, *client).credentials())
        assert not is_ready(container.grpc_address, Tls(authority).credentials())


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "client-ca.crt", "server.pem"])
def test_half_of_tls_is_no_tls(container: Container, tmp_path: Path, name: str) -> None:
    (tmp_path / "tls" / name).touch()
    done = container.ended()
    assert done.returncode == 2
    assert f"{tmp_path}/tls needs tls.crt and tls.key" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_without_tensorrt_it_says_so(container: Container) -> None:
    done = container.ended(FUNDUS_TENSORRT="1")
    assert done.returncode == 2
    assert "the package 'tensorrt'" in done.stderr


def test_plans_are_built_after_the_check_and_served(container: Container) -> None:
    for name in ("fundus-export", "tritonserver"):
        write_command(container.folder, name, f'#!/bin/sh\necho {name} "$@"\n')
    lines = container.ended(FUNDUS_TENSORRT="1").stdout.splitlines()
    assert lines[:2] == [f"fundus-export {name} {container.models}" for name in ("check", "tensorrt")]
    assert lines[-1].startswith("tritonserver ")
    assert " --model-config-name=tensorrt " in lines[-1]


def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run([COMMANDS / "shellcheck", ENTRYPOINT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
