"""`score`: the command at the running server, with its table read back; and who serves."""

import asyncio
import csv
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import COMMANDS, command

from fundus_client.journal import journal_path
from fundus_client.scorer import Prediction, connect

Row = dict[str, str]
ImageBytes = dict[str, bytes]
N_FILES = 300


@dataclass(frozen=True)
class Scored:
    """One finished `fundus-client score`."""

    code: int
    stdout: str
    stderr: str
    output: Path
    rows: list[Row]

    @property
    def row_of(self) -> dict[str, Row]:
        return {row["image_id"]: row for row in self.rows}


Score = Callable[..., Scored]


@pytest.fixture(scope="session")
def photos(phantom_folder: Path) -> list[Path]:
    return sorted(phantom_folder.glob("*.jpg"))


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """300 files of different content, three of them the same, and four that cannot be scored."""
    folder = tmp_path_factory.mktemp("many") / "images"
    folder.mkdir()
    for number in range(N_FILES - 7):
        content = photos[number % len(photos)].read_bytes()
        (folder / f"{number:03}.jpg").write_bytes(content + b"%d" % number)
    for number in range(3):
        shutil.copy(photos[0], folder / f"same-{number}.jpg")
    (folder / "text.jpg").write_text("no photograph")
    (folder / "empty.jpg").touch()
    (folder / "half.jpg").write_bytes(photos[0].read_bytes()[:5000])
    (folder / "gone.jpg").symlink_to("nothing")
    return folder


@pytest.fixture
def score(tmp_path: Path) -> Score:
    """Run `fundus-client score` in a folder of its own; whatever happens, it says so without a traceback."""
    return lambda *arguments, **options: run_score(tmp_path / "out", *arguments, **options)


def run_score(folder: Path, *arguments: object, **options: object) -> Scored:
    folder.mkdir(exist_ok=True)
    output = folder / "scores.csv"
    done = command("client", "score", *arguments, "--output", output, **options)
    return checked(done.returncode, done.stdout, done.stderr, output)


def checked(code: int, stdout: str, stderr: str, output: Path) -> Scored:
    assert "Traceback" not in stdout + stderr, stderr
    rows = read_rows(output) if output.exists() else []
    ids = [row["image_id"] for row in rows]
    assert ids == sorted(set(ids)), "one row per file, in sorted order"
    return Scored(code, stdout, stderr, output, rows)


def read_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def scored_alone(address: str, images: Iterable[bytes]) -> list[Prediction]:
    """Score images one after the other: no request is ever in a batch with another."""

    async def run() -> list[Prediction]:
        async with connect(address, ready_timeout_s=30, timeout_s=60) as scorer:
            return [await scorer.score(data, "alone") for data in images]

    return asyncio.run(run())


def probabilities(row: Row) -> tuple[float, ...]:
    """The row's mean and folds, as numbers."""
    return tuple(float(row[name]) for name in ("probability", "fold_0", "fold_1"))


def flat(answer: Prediction) -> tuple[float, ...]:
    """The same three numbers of an answer."""
    return (*answer.probability, *(fold[0] for fold in answer.fold_probability))


def server_processes(ancestor: int) -> list[int]:
    """The tritonserver and its stubs below a process: the server first."""
    try:
        children = Path(f"/proc/{ancestor}/task/{ancestor}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return []
    below = [pid for child in children for pid in (int(child), *server_processes(int(child)))]
    return [pid for pid in below if "triton" in _program(pid)]


def _program(pid: int) -> str:
    """The name of what a process runs, "" where it has ended."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except FileNotFoundError:
        return ""


def start(many: Path, output: Path, *options: object) -> "subprocess.Popen[str]":
    line = [COMMANDS / "fundus-client", "score", many, "--output", output, *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, line)), start_new_session=True, **pipes)  # type: ignore[call-overload]


def n_committed(output: Path) -> int:
    """How many answers the journal of a run that goes on holds; it is locked, a copy of it is not."""
    journal, copy = journal_path(output), output.with_name("copy")
    try:
        for suffix in ("", "-wal"):
            shutil.copy(f"{journal}{suffix}", f"{copy}{suffix}")
        with closing(sqlite3.connect(copy)) as database:
            return int(database.execute("SELECT count(*) FROM answers").fetchone()[0])
    except (OSError, sqlite3.OperationalError):  # not there yet
        return 0


def end(client: "subprocess.Popen[str]") -> tuple[int, str]:
    try:
        stdout, stderr = client.communicate(timeout=120)
    finally:
        client.kill()
    assert "Traceback" not in stderr, stderr
    return client.returncode, stdout + stderr


def wait_for(condition: Callable[[], object], timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.05)
