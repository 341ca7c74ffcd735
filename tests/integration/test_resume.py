"""Whatever ends a run, the next one goes on to the same table, byte for byte: real processes, killed."""

import asyncio
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
from tests.client.fakes import SPEC, Service
from tests.client.test_batch import Remembered
from tests.integration.conftest import (
    N_FILES,
    Score,
    end,
    n_committed,
    run_score,
    server_processes,
    start,
    wait_for,
)

from fundus_client.batch import Batch
from fundus_client.embedded import EmbeddedServer, embedded_server
from fundus_client.journal import journal_path
from fundus_client.listener import Listener, Ports, free_port
from fundus_client.member import Patience
from fundus_client.pool import open_pool
from fundus_client.servers import EmbeddedEndpoint
from fundus_core.files import find_images

SEEDS = int(os.environ.get("FUNDUS_KILL_SEEDS", "3"))  # of random moments at which a client is killed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, many: Path, server: EmbeddedServer) -> bytes:
    """The table of a run that nothing happened to."""
    done = run_score(tmp_path_factory.mktemp("undisturbed"), many, "--url", server.grpc_address)
    assert done.code == 3
    assert len(done.rows) == N_FILES
    assert sum(row["status"] == "failed" for row in done.rows) == 4
    return done.output.read_bytes()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "scores.csv"


def finish(many: Path, output: Path, *options: object) -> str:
    code, said = end(start(many, output, *options))
    assert code == 3, said
    return said


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_client_killed_at_any_moment(
    many: Path, output: Path, undisturbed: bytes, tiny_repository: Path, seed: int
) -> None:
    """With a server of its own: requests that break off may crash tritonserver 2.51, whoever else uses it."""
    moments = np.random.default_rng(seed)
    for _ in range(4):
        client = start(many, output, "--repository", tiny_repository)
        wait_for(lambda client=client: client.poll() is not None or journal_path(output).exists())
        time.sleep(moments.uniform(0, 4))
        client.kill()
        client.communicate()
    finish(many, output, "--repository", tiny_repository)
    assert output.read_bytes() == undisturbed


@pytest.mark.parametrize("seed", range(2))
def test_an_embedded_server_killed_at_any_moment_starts_again(
    many: Path, output: Path, undisturbed: bytes, tiny_repository: Path, seed: int
) -> None:
    moments = np.random.default_rng(seed)
    client = start(many, output, "--repository", tiny_repository)
    for _ in range(2):
        wait_for(lambda: client.poll() is not None or len(server_processes(client.pid)) >= 5)
        time.sleep(moments.uniform(0.5, 1.5))
        if client.poll() is None:
            os.kill(server_processes(client.pid)[0], signal.SIGKILL)
            time.sleep(0.3)
    code, said = end(client)
    assert code == 3, said
    assert output.read_bytes() == undisturbed


def test_client_and_server_killed_together(
    many: Path, output: Path, undisturbed: bytes, tiny_repository: Path
) -> None:
    client = start(many, output, "--repository", tiny_repository)
    wait_for(lambda: client.poll() is not None or n_committed(output) > 20)
    server = server_processes(client.pid)[0]
    client.kill()
    os.kill(server, signal.SIGKILL)
    client.communicate()
    said = finish(many, output, "--repository", tiny_repository)
    assert re.search(r"\d+ of 300 files have their row from an earlier run", said)
    assert output.read_bytes() == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on_and_does(
    many: Path, output: Path, undisturbed: bytes, server: EmbeddedServer, number: signal.Signals
) -> None:
    client = start(many, output, "--url", server.grpc_address)
    wait_for(lambda: client.poll() is not None or n_committed(output) > 20)
    client.send_signal(number)
    code, said = end(client)
    assert code == 1
    assert "run the same command again to go on" in said
    assert not output.exists()
    finish(many, output, "--url", server.grpc_address)
    assert output.read_bytes() == undisturbed


def test_one_of_three_servers_is_killed_and_comes_back(
    many: Path, output: Path, undisturbed: bytes, tiny_repository: Path
) -> None:
    ports = [free_port() for _ in range(3)]
    with ExitStack() as stack, ExitStack() as dying:
        for port in ports[1:]:
            stack.enter_context(embedded_server(tiny_repository, listener=Listener(Ports(port))))
        first = dying.enter_context(embedded_server(tiny_repository, listener=Listener(Ports(ports[0]))))
        urls = [part for port in ports for part in ("--url", f"127.0.0.1:{port}")]
        client = start(many, output, *urls)
        wait_for(lambda: client.poll() is not None or n_committed(output) > 20)
        os.kill(server_processes(first.supervisor.pid)[0], signal.SIGKILL)
        dying.close()
        stack.enter_context(embedded_server(tiny_repository, listener=Listener(Ports(ports[0]))))
        code, said = end(client)
    assert code == 3, said
    assert output.read_bytes() == undisturbed


def test_a_finished_run_is_not_scored_again_and_a_changed_file_is(
    many: Path, output: Path, tmp_path: Path, server: EmbeddedServer, photos: list[Path]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        shutil.copy(photos[number], images / f"{number}.jpg")
    counts = []
    for change in (None, None, 1):
        if change is not None:
            shutil.copy(photos[7], images / f"{change}.jpg")
        code, said = end(start(images, output, "--url", server.grpc_address))
        assert code == 0, said
        counts.append(json.loads((tmp_path / "run.json").read_text())["counts"]["n_earlier"])
    assert counts == [0, 3, 2]


def test_a_file_that_could_not_be_read_is_tried_again(
    tmp_path: Path, server: EmbeddedServer, photos: list[Path], score: Score
) -> None:
    """A drive that comes back: the link's target appears, without a change of the link."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "1.jpg").symlink_to(tmp_path / "away.jpg")
    assert [row["status"] for row in score(images, "--url", server.grpc_address).rows] == ["failed"]
    shutil.copy(photos[0], tmp_path / "away.jpg")
    assert [row["status"] for row in score(images, "--url", server.grpc_address).rows] == ["scored"]


def test_refused_images_are_sent_again_only_when_asked(tmp_path: Path, score: Score) -> None:
    well = threading.Event()

    def fails(service: Service, number: int, context: grpc.ServicerContext) -> None:
        if not well.is_set():
            context.abort(grpc.StatusCode.INTERNAL, "division by zero")

    bitmap = tmp_path / "1.bmp"
    bitmap.write_bytes(b"BM" + bytes(100))
    with Service(fails) as service:
        first = score(bitmap, "--url", service.address)
        well.set()
        again = score(bitmap, "--url", service.address)
        retried = score(bitmap, "--url", service.address, "--retry-failed")
    assert [done.rows[0]["status"] for done in (first, again, retried)] == ["failed", "failed", "scored"]


def test_another_bundle_is_refused_by_name_and_fresh_starts_over(
    tmp_path: Path, server: EmbeddedServer, photos: list[Path], score: Score
) -> None:
    assert score(photos[0], "--url", server.grpc_address).code == 0
    with Service(spec=dataclasses.replace(SPEC, version="99")) as other:
        refused = score(photos[0], "--url", other.address)
        assert refused.code == 1
        assert "no model 99" in refused.stderr
        assert other.asked == []
        again = score(photos[0], "--url", other.address, "--fresh")
        assert again.code == 0, again.stderr


def test_a_table_that_cannot_be_written_loses_no_answer(
    tmp_path: Path, server: EmbeddedServer, photos: list[Path], score: Score
) -> None:
    in_the_way = tmp_path / "out" / ".scores.csv.partial"
    in_the_way.mkdir(parents=True)
    done = score(photos[0], "--url", server.grpc_address)
    assert (done.code, done.rows) == (1, [])
    assert ".scores.csv.partial': Is a directory. What was answered is in" in done.stderr
    in_the_way.rmdir()
    again = score(photos[0], "--url", server.grpc_address)
    assert "1 of 1 files have their row from an earlier run" in again.stderr
    assert [row["status"] for row in again.rows] == ["scored"]


def test_two_runs_cannot_write_one_table(
    many: Path, output: Path, server: EmbeddedServer, score: Score
) -> None:
    client = start(many, output, "--url", server.grpc_address, "--in-flight", 1)  # takes its time
    wait_for(lambda: client.poll() is not None or n_committed(output))
    code, said = end(start(many, output, "--url", server.grpc_address))
    assert code == 2
    assert "Another run has" in said
    assert end(client)[0] == 3


POISON = b"this one kills"
KILLS = f"""
import os, signal
from fundus_core.backend import PreprocessModel
class TritonPythonModel(PreprocessModel):
    def _answer(self, request):
        import triton_python_backend_utils as pb_utils
        data = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)[0]
        if {POISON!r} in data:
            os.kill(os.getppid(), signal.SIGKILL)
        return super()._answer(request)
"""


def test_an_image_that_kills_the_real_server_is_found_and_all_others_are_scored(
    tmp_path: Path, tiny_repository: Path, photos: list[Path]
) -> None:
    repository = Path(shutil.copytree(tiny_repository, tmp_path / "repository"))
    (repository / "fundus_preprocess" / "1" / "model.py").write_text(KILLS)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(40):
        (images / f"{number:02}.jpg").write_bytes(photos[number % 8].read_bytes() + b"%d" % number)
    pixels = photos[0].read_bytes()
    comment = POISON.ljust(32)
    killer = pixels[:2] + b"\xff\xdb" + (2 + len(comment)).to_bytes(2, "big") + comment + pixels[2:]
    (images / "17.jpg").write_bytes(killer)
    memory = Remembered()

    async def run() -> None:
        async with open_pool([endpoint], Patience(30, 60, 16)) as pool:
            await Batch(pool, memory).run(find_images([images]))

    endpoint = EmbeddedEndpoint(repository, 60)
    try:
        asyncio.run(run())
    finally:
        endpoint.close()
    assert len(memory.rows) == 40
    failed = [row for row in memory.rows.values() if row.status == "failed"]
    assert [(row.image_id, row.reason.partition(":")[0]) for row in failed] == [("17.jpg", "breaks_server")]


def test_a_full_disk_keeps_what_was_committed(
    many: Path, tmp_path: Path, undisturbed: bytes, server: EmbeddedServer
) -> None:
    """A real file system of 256 kB, which the journal fills."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        output = small / "scores.csv"
        code, said = end(start(many, output, "--url", server.grpc_address))
        assert code == 1, said
        assert re.search("cannot be written.*(full|disk|No space)", said)
        subprocess.run([*mount[:4], "remount,size=16m", *mount[5:]], check=True)
        finish(many, output, "--url", server.grpc_address)
        assert output.read_bytes() == undisturbed
    finally:
        subprocess.run(["umount", str(small)], check=True)
