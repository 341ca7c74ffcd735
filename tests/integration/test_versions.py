"""Several bundles behind one real tritonserver: side by side, swapped under load, and rolled back."""

import asyncio
import importlib.util
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from tests.docker.conftest import ADMIN_KEY, TRITONSERVER
from tests.export.test_verify import scaled
from tests.integration.conftest import Score, flat, probabilities, scored_alone, wait_for
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from fundus_client.embedded import embedded_server
from fundus_client.scorer import connect
from fundus_core.ensemble import (
    ENSEMBLE_MODEL,
    FOLD_PROBABILITY,
    IMAGE,
    MODEL_ONNX,
    PROBABILITY,
    EnsembleSpec,
    fold_model,
    read_manifest,
    write_manifest,
)
from fundus_core.phantoms import write_samples
from fundus_core.repository import digests, write_rendered
from fundus_core.serving import Serving
from fundus_export.cli import main
from fundus_export.live import Live, read_live
from fundus_export.server import KEY_HEADER

N_CLIENTS = 8
ROUNDS = 3  # answers of every client that are waited for between two deployments

Numbers = tuple[float, ...]  # mean and folds of one image


@dataclass(frozen=True)
class Answer:
    """Who made it by its own words, and the numbers."""

    model: str
    version: str
    numbers: Numbers


@dataclass(frozen=True)
class Bundle:
    """A model repository, and what it answers to each image when it is served alone."""

    folder: Path
    answers: list[Numbers]


@dataclass(frozen=True)
class Server:
    """A tritonserver that serves a live repository."""

    live: Path
    address: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def state(self) -> Live:
        return read_live(self.live)

    def tell(self, command: str, *arguments: object, code: int = 0) -> str:
        """Deploy or roll back at the running server; return what it says."""
        told = [command, *arguments, self.live, "--url", self.address, "--admin-key", ADMIN_KEY]
        done = CliRunner().invoke(main, [str(each) for each in told])
        assert done.exit_code == code, f"{done.output}\n{self.log.read_text()[-3000:]}"
        return done.output

    def ensembles(self) -> set[str]:
        """Return the names of the ensembles that answer."""
        with InferenceServerClient(self.address) as client:
            index = client.get_model_repository_index(headers={KEY_HEADER: ADMIN_KEY}).models
        ready = {each.name for each in index if each.state == "READY"}
        return {name for name in ready if name.startswith(ENSEMBLE_MODEL)}


def ask(client: InferenceServerClient, data: bytes, model: str = ENSEMBLE_MODEL) -> Answer:
    image = InferInput(IMAGE, [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[data]], dtype=object))
    answer = client.infer(model, [image], client_timeout=60)
    numbers = [answer.as_numpy(name).reshape(-1) for name in (PROBABILITY, FOLD_PROBABILITY)]
    said = answer.get_response()
    return Answer(said.model_name, said.model_version, tuple(np.concatenate(numbers).tolist()))


@dataclass
class Load:
    """Clients that send image after image; a request without an answer is `lost`."""

    address: str
    images: list[bytes]
    answers: list[tuple[int, Answer]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    sent: list[int] = field(default_factory=lambda: [0] * N_CLIENTS)  # by each client, and done

    def client(self, number: int) -> None:
        with InferenceServerClient(self.address) as client:
            for i in cycle(range(len(self.images))):
                if self.ended.is_set():
                    return
                index = (i + number) % len(self.images)
                try:
                    self.answers.append((index, ask(client, self.images[index])))
                    if not client.is_server_ready():  # then nobody would send it anything
                        self.lost.append("not ready")
                except InferenceServerException as error:
                    self.lost.append(str(error))
                self.sent[number] += 1

    def go_on(self) -> int:
        """Wait until every answer now in flight has come, and more; return how many there are."""
        wanted = [count + ROUNDS for count in self.sent]
        wait_for(lambda: all(now >= then for now, then in zip(self.sent, wanted, strict=True)))
        return len(self.answers)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(N_CLIENTS) as pool:
            clients = [pool.submit(self.client, number) for number in range(N_CLIENTS)]
            try:
                yield
            finally:
                self.ended.set()
        for each in clients:
            each.result()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("images")
    return [(folder / name).read_bytes() for name in write_samples(folder, 6, 77)]


@pytest.fixture(scope="module")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, tiny_repository: Path, images: list[bytes]
) -> list[Bundle]:
    """Three bundles of which no two agree in any number."""
    if importlib.util.find_spec("pytriton") is None:
        pytest.skip("needs the extra `embedded`: the wheel's tritonserver")
    parent, made = tmp_path_factory.mktemp("bundles"), []
    for number in range(3):
        folder = Path(shutil.copytree(tiny_repository, parent / str(number)))
        change(folder, number)
        with embedded_server(folder) as server:
            made.append(Bundle(folder, [flat(each) for each in scored_alone(server.grpc_address, images)]))
    every = [[*numbers] for bundle in made for numbers in bundle.answers]
    assert len({each for numbers in every for each in numbers}) == 3 * len(images) * 3
    return made


def change(repository: Path, number: int) -> None:
    """Give a copy other weights in each fold and another preprocessing."""
    spec = read_manifest(repository)
    for fold in spec.folds:
        path = repository / fold_model(fold.index) / MODEL_ONNX
        onnx.save(scaled(onnx.load(path), 3.0 + number), path)
    preprocess = replace(spec.preprocess, centre_crop=0.9 - 0.1 * number)
    cover_traces(repository, replace(spec, preprocess=preprocess))


def cover_traces(repository: Path, spec: EnsembleSpec) -> None:
    files = digests(repository, (repository / name for name in spec.files))
    spec = replace(spec, files=files)
    write_manifest(spec, repository)
    write_rendered(repository, spec, Serving())


@pytest.fixture
def server(tmp_path: Path, bundles: list[Bundle]) -> Iterator[Server]:
    """A server that serves the first bundle."""
    live = tmp_path / "live"
    done = CliRunner().invoke(main, ["deploy", str(bundles[0].folder), str(live)])
    assert done.exit_code == 0, done.output
    with tritonserver(live, tmp_path) as running:
        yield running


@contextmanager
def tritonserver(live: Path, folder: Path) -> Iterator[Server]:
    script, log = folder / "tritonserver", folder / "log"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script.write_text(TRITONSERVER.format(python=sys.executable, backends=str(folder / "backends")))
    flags = {
        "model-repository": live,
        "model-control-mode": "explicit",
        "load-model": "*",
        "strict-readiness": "false",
        "model-config-name": "embedded",
        "backend-directory": folder / "backends",
        "backend-config": f"python,shm-region-prefix-name=versions-{port}",
        "grpc-address": "127.0.0.1",
        "grpc-port": port,
        "allow-http": "false",
        "allow-metrics": "false",
        "grpc-restricted-protocol": f"model-repository,statistics:fundus-admin-key={ADMIN_KEY}",
    }
    line = [
        sys.executable,
        str(script),
        "--disable-auto-complete-config",
        *(f"--{k}={v}" for k, v in flags.items()),
    ]
    with log.open("wb") as file, subprocess.Popen(line, stdout=file, stderr=file) as process:
        try:
            wait_for(lambda: "Started GRPC" in log.read_text() or process.poll() is not None)
            assert process.poll() is None, log.read_text()[-3000:]
            yield Server(live, f"127.0.0.1:{port}", process, log)
        finally:
            process.terminate()
            process.wait(60)


def test_two_bundles_answer_side_by_side_each_as_it_does_alone(
    server: Server, bundles: list[Bundle], images: list[bytes]
) -> None:
    server.tell("deploy", bundles[1].folder, "--canary")
    canary = server.state.canary
    assert canary
    with InferenceServerClient(server.address) as client:
        for model, bundle in ((ENSEMBLE_MODEL, bundles[0]), (canary, bundles[1])):
            assert [ask(client, each, model).numbers for each in images] == bundle.answers
        server.tell("deploy", bundles[1].folder)
        assert [ask(client, each).numbers for each in images] == bundles[1].answers
    # Nothing but the entry was loaded for that.
    loaded = re.findall(r"loading: (\S+):\d", server.log.read_text())
    assert [name for name in loaded if loaded.count(name) > 1] == [ENSEMBLE_MODEL] * 2


def test_a_bundle_that_was_swapped_out_still_answers_by_its_own_name(
    server: Server, bundles: list[Bundle], images: list[bytes]
) -> None:
    first = server.state.active
    assert first
    with InferenceServerClient(server.address) as client:
        server.tell("deploy", bundles[1].folder)
        assert ask(client, images[0], first) == Answer(first, "1", bundles[0].answers[0])
        server.tell("deploy", bundles[2].folder)
        with pytest.raises(InferenceServerException, match=r"is not found|no available versions"):
            ask(client, images[0], first)
    assert server.ensembles() == {ENSEMBLE_MODEL, server.state.active, server.state.previous}


def test_the_client_stays_on_the_bundle_that_it_began_on(
    server: Server, bundles: list[Bundle], images: list[bytes]
) -> None:
    async def run() -> list[Numbers]:
        async with connect(server.address, ready_timeout_s=30, timeout_s=60) as begun:
            before = await begun.score(images[0], "before")
            await asyncio.to_thread(server.tell, "deploy", bundles[1].folder)
            return [flat(before), flat(await begun.score(images[0], "after"))]

    assert asyncio.run(run()) == [bundles[0].answers[0]] * 2
    assert [flat(each) for each in scored_alone(server.address, images)] == bundles[1].answers


def test_the_client_asks_a_canary_by_its_name(
    server: Server, bundles: list[Bundle], images: list[bytes], tmp_path: Path, score: Score
) -> None:
    server.tell("deploy", bundles[1].folder, "--canary")
    (tmp_path / "image.jpg").write_bytes(images[0])
    canary = ("--url", server.address, "--model", server.state.canary)
    (row,) = score(tmp_path / "image.jpg", *canary).rows
    assert row["bundle_digest"] == read_manifest(bundles[1].folder).digest
    assert probabilities(row) == pytest.approx(bundles[1].answers[0], abs=1e-6)


def test_a_bundle_that_cannot_be_loaded_changes_nothing(
    server: Server, bundles: list[Bundle], images: list[bytes], tmp_path: Path
) -> None:
    broken, before = Path(shutil.copytree(bundles[1].folder, tmp_path / "broken")), server.state
    (broken / fold_model(0) / MODEL_ONNX).write_bytes(b"no graph")
    cover_traces(broken, read_manifest(broken))
    models = {path.name for path in server.live.iterdir()}
    said = server.tell("deploy", broken, code=1)
    assert "refuses" in said
    assert fold_model(0) in said
    assert server.state == before
    assert {path.name for path in server.live.iterdir()} == models
    assert server.ensembles() == {ENSEMBLE_MODEL, before.active}
    with InferenceServerClient(server.address) as client:
        assert ask(client, images[0]) == Answer(ENSEMBLE_MODEL, "1", bundles[0].answers[0])


def test_without_the_admin_key_nothing_is_swapped(server: Server, bundles: list[Bundle]) -> None:
    before = server.state
    done = CliRunner().invoke(
        main, ["deploy", str(bundles[1].folder), str(server.live), "--url", server.address]
    )
    assert done.exit_code == 1, done.output
    assert KEY_HEADER in done.stderr
    assert server.state == before


def test_a_server_that_starts_again_serves_what_it_served(
    server: Server, bundles: list[Bundle], images: list[bytes], tmp_path: Path
) -> None:
    server.tell("deploy", bundles[1].folder)
    server.tell("deploy", bundles[2].folder, "--canary")
    server.process.terminate()
    server.process.wait(60)
    state = server.state
    with tritonserver(server.live, tmp_path) as again, InferenceServerClient(again.address) as client:
        assert again.ensembles() == {ENSEMBLE_MODEL, state.active, state.previous, state.canary}
        assert ask(client, images[0]) == Answer(ENSEMBLE_MODEL, "2", bundles[1].answers[0])
        again.tell("rollback")
        assert ask(client, images[0]) == Answer(ENSEMBLE_MODEL, "3", bundles[0].answers[0])


def test_swaps_and_rollbacks_under_load_lose_nothing_and_mix_nothing(
    server: Server, bundles: list[Bundle], images: list[bytes]
) -> None:
    steps: list[tuple[tuple[object, ...], Bundle]] = [
        (("deploy", bundles[1].folder), bundles[1]),
        (("rollback",), bundles[0]),
        (("deploy", bundles[2].folder), bundles[2]),  # bundle 1 is unloaded
        (("deploy", bundles[1].folder), bundles[1]),
        (("rollback",), bundles[2]),
    ]
    made_by = {"1": bundles[0]} | {str(number): bundle for number, (_, bundle) in enumerate(steps, 2)}
    load = Load(server.address, images)
    with load.running():
        load.go_on()
        for number, (told, _) in enumerate(steps, 2):
            server.tell(*told)
            swapped = load.go_on()
            load.go_on()
            assert {answer.version for _, answer in load.answers[swapped:]} == {str(number)}
    assert load.lost == []
    for index, answer in load.answers:
        assert answer == Answer(ENSEMBLE_MODEL, answer.version, made_by[answer.version].answers[index])
    assert {answer.version for _, answer in load.answers} == made_by.keys()
