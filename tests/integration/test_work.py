"""How much work a run is, counted by the server, on the wire and by the system instead of timed."""

import re
import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
from click.testing import CliRunner
from tests.integration.conftest import server_processes
from tests.pacs.relay import recorded

from fundus_client import journal
from fundus_client.cli import main
from fundus_client.embedded import EmbeddedServer, embedded_server
from fundus_client.listener import Listener, Ports, free_port
from fundus_core.ensemble import AVERAGE_MODEL, ENSEMBLE_MODEL, PREPROCESS_MODEL, fold_model
from fundus_core.errors import EXIT_SOME_FAILED
from fundus_core.limits import usable_cores
from fundus_core.serving import MOST_PREPROCESSING

N_SCORED, N_SENT, N_FILES = 20, 21, 24  # contents, with one that is broken; with two copies and an empty file
MODELS = {PREPROCESS_MODEL: N_SENT, fold_model(0): N_SCORED, fold_model(1): N_SCORED, AVERAGE_MODEL: N_SCORED}
LOOKS = (
    2  # at the first bytes of each file, which may be those of a DICOM object: when listed, and when scored
)
REQUEST_BYTES = 1024  # more than a request is beside its image
CONNECTION_BYTES = 16 * 1024  # more than is said beside the requests
COMMITS = ("schema", "inputs", "answers")
SETTLE_S = 0.2  # the server answers a moment before it counts


@dataclass(frozen=True)
class Run:
    """What one run of the command has cost."""

    opened: Counter[str]  # how often, by the name of the file
    commits: int
    sent_bytes: int
    answered: dict[str, int]  # by each model, since the server started


@pytest.fixture(scope="module")
def metered(server: EmbeddedServer, tiny_repository: Path) -> Iterator[EmbeddedServer]:
    """The tiny ensemble once more, behind a server that counts aloud."""
    listener = Listener(Ports(free_port(), metrics=free_port()))
    with embedded_server(tiny_repository, listener=listener) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    folder = tmp_path_factory.mktemp("work") / "images"
    folder.mkdir()
    for path in photos[:N_SCORED]:
        shutil.copy(path, folder)
    for number in range(2):
        shutil.copy(photos[0], folder / f"copy-{number}.jpg")
    (folder / "half.jpg").write_bytes(photos[0].read_bytes()[:5000])
    (folder / "empty.jpg").touch()
    assert len(list(folder.iterdir())) == N_FILES
    return folder


@pytest.fixture(scope="module")
def runs(metered: EmbeddedServer, folder: Path) -> tuple[Run, Run]:
    """The folder, scored; and the same command again."""
    return run(metered, folder), run(metered, folder)


def run(server: EmbeddedServer, folder: Path) -> Run:
    """Score the folder within this process; the clock asks for no commit."""
    line = ["score", str(folder), "--output", str(folder.with_name("scores.csv"))]
    with (
        pytest.MonkeyPatch.context() as patch,
        recorded(server.grpc_address) as (relay, sent),
        opened_below(folder) as opened,
    ):
        patch.setattr(journal, "COMMIT_S", 3600)
        statements = traced_statements(patch)
        done = CliRunner().invoke(main, [*line, "--url", relay])
    assert done.exit_code == EXIT_SOME_FAILED, done.output
    return Run(opened, statements["COMMIT"], len(sent), answered(server))


@contextmanager
def opened_below(folder: Path) -> Iterator[Counter[str]]:
    opened, listening = Counter[str](), True

    def hook(event: str, arguments: tuple[object, ...]) -> None:  # Python cannot take it away again
        if listening and event == "open" and str(arguments[0]).startswith(f"{folder}/"):
            opened[Path(str(arguments[0])).name] += 1

    sys.addaudithook(hook)
    yield opened
    listening = False


def traced_statements(patch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the statements of every SQLite database that is opened from now on."""
    statements, connect = Counter[str](), sqlite3.connect

    def traced(*arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)  # type: ignore[call-overload]
        connection.set_trace_callback(lambda said: statements.update([said.strip(" \n;")]))
        return connection

    patch.setattr(sqlite3, "connect", traced)
    return statements


def answered(server: EmbeddedServer) -> dict[str, int]:
    """Return how many images each model has answered, as Triton's metrics tell."""
    time.sleep(SETTLE_S)
    with urlopen(f"http://{server.metrics_address}/metrics", timeout=30) as answer:
        metrics = answer.read().decode()
    found = re.findall(r'^nv_inference_count\{model="(\w+)".*\} (\d+)$', metrics, re.MULTILINE)
    return {model: int(count) for model, count in found}


def test_each_content_is_preprocessed_and_answered_once(runs: tuple[Run, Run]) -> None:
    assert runs[0].answered == {ENSEMBLE_MODEL: N_SCORED, **MODELS}


def test_a_request_is_hardly_larger_than_its_file(runs: tuple[Run, Run], folder: Path) -> None:
    contents = {path.read_bytes() for path in folder.iterdir()}
    most = sum(map(len, contents)) + N_SENT * REQUEST_BYTES + CONNECTION_BYTES
    assert runs[0].sent_bytes < most


def test_each_file_is_read_once(runs: tuple[Run, Run]) -> None:
    assert Counter(runs[0].opened.values()) == {LOOKS + 1: N_FILES - 1, LOOKS: 1}  # the empty one is not read


def test_what_is_known_is_committed_together(runs: tuple[Run, Run]) -> None:
    assert runs[0].commits == len(COMMITS)


def test_a_second_run_reads_and_asks_nothing(runs: tuple[Run, Run]) -> None:
    first, second = runs
    assert max(second.opened.values()) == LOOKS
    assert second.sent_bytes < CONNECTION_BYTES
    assert second.answered == first.answered


def test_each_model_is_one_process_but_preprocessing_which_has_one_for_each_core(
    metered: EmbeddedServer,
) -> None:
    _, *stubs = server_processes(metered.supervisor.pid)
    assert len(stubs) == len(MODELS) - 1 + min(usable_cores(), MOST_PREPROCESSING)
