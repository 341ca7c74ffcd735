"""`fundus-client doctor` on the real tritonserver: what it takes for well, and what it finds broken."""

import json
import re
import shutil
import subprocess
from pathlib import Path

from tests.conftest import command
from tests.integration.conftest import scored_alone, server_processes

from fundus_client.checkup.machine import server_bytes
from fundus_client.embedded import EmbeddedServer
from fundus_client.servers import reference_repository
from fundus_core.ensemble import read_manifest


def consult(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = command("client", "doctor", *arguments, cwd=folder)
    assert "Traceback" not in done.stderr
    return done


def test_an_embedded_server_is_started_asked_and_ended(
    server: EmbeddedServer, tiny_repository: Path, tmp_path: Path
) -> None:
    done = consult(tmp_path, "--repository", tiny_repository, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert {each["level"] for each in found} <= {"ok", "warning"}
    assert re.search(r"127\.0\.0\.1:\d+ serves tiny .* answered a phantom in", found[-1]["what"])
    assert list(tmp_path.iterdir()) == []


def test_a_running_server_is_compared_with_the_bundle_that_it_should_serve(
    server: EmbeddedServer, tiny_repository: Path, tmp_path: Path
) -> None:
    line = ("--url", server.grpc_address, "--repository")
    assert consult(tmp_path, *line, tiny_repository).returncode == 0
    done = consult(tmp_path, *line, reference_repository())
    assert done.returncode == 1
    assert re.search(
        r"problem  127\.0\.0\.1:\d+ serves tiny .*, and --repository is fundus-reference", done.stdout
    )


def test_a_changed_bundle_is_not_served(
    server: EmbeddedServer, tiny_repository: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(tiny_repository, tmp_path / "bundle")
    (bundle / "fundus_fold_1" / "1" / "model.onnx").write_bytes(b"another network")
    done = consult(tmp_path, "--repository", "bundle")
    assert done.returncode == 1
    assert "problem  'bundle': fundus_fold_1/1/model.onnx was changed. Take a fresh copy" in done.stdout
    assert "phantom" not in done.stdout
    assert "The embedded server is installed" in done.stdout, "one problem does not hide the others"


def test_the_estimate_of_memory_is_above_what_a_busy_server_takes(
    server: EmbeddedServer, tiny_repository: Path, phantom_folder: Path
) -> None:
    scored_alone(
        server.grpc_address, [path.read_bytes() for path in sorted(phantom_folder.glob("*.jpg"))[:8]]
    )
    rollups = [
        Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in server_processes(server.supervisor.pid)
    ]
    takes = 1024 * sum(int(re.search(r"^Pss: +(\d+)", text, re.MULTILINE)[1]) for text in rollups)
    assert takes < server_bytes(tiny_repository, read_manifest(tiny_repository)) < 4 * takes
