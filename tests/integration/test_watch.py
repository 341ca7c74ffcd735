"""`fundus-client watch` as a real process, before a real tritonserver: killed, left alone, ended."""

import csv
import hashlib
import json
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import COMMANDS
from tests.integration.conftest import Row, Score, probabilities, server_processes, wait_for

from fundus_client.embedded import EmbeddedServer, embedded_server
from fundus_client.listener import Listener, Ports, free_port


@dataclass(frozen=True)
class Watched:
    """The folders of a watch, and what is in them."""

    root: Path

    def __post_init__(self) -> None:
        for name in ("inbox", "done", "failed"):
            (self.root / name).mkdir(parents=True)

    @contextmanager
    def watch(self, *options: object) -> Iterator["subprocess.Popen[bytes]"]:
        """Run the command while the block does; its process is then killed if nobody has ended it."""
        folders = (self.root / "inbox", "--done", self.root / "done", "--failed", self.root / "failed")
        line = (COMMANDS / "fundus-client", "watch", *folders, "--settle", 0.2, "--poll", 0.1, *options)
        with (self.root / "log").open("a") as log, (self.root / "errors").open("a") as errors:
            process = subprocess.Popen([*map(str, line)], stdout=log, stderr=errors, start_new_session=True)
            try:
                yield process
            finally:
                process.kill()
                process.wait(30)
        assert "Traceback" not in self.said()

    def said(self) -> str:
        return (self.root / "errors").read_text()

    def arrive(self, path: Path) -> None:
        """Copy a file in under its final name, in two steps."""
        data = path.read_bytes()
        with (self.root / "inbox" / path.name).open("wb") as file:
            for half in (data[: len(data) // 2], data[len(data) // 2 :]):
                file.write(half)
                file.flush()

    def files(self, folder: str) -> list[Path]:
        return [path for path in (self.root / folder).rglob("*.jpg") if path.is_file()]

    def rows(self, tables: Path | None = None) -> list[Row]:
        rows = []
        for path in (tables or self.root / "done").glob("scores-*.csv"):
            with path.open(newline="") as file:
                rows += list(csv.DictReader(file))
        return rows

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (self.root / "log").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == name]

    def n_filed(self) -> int:
        return len(self.events("scored")) + len(self.events("failed"))

    def check_complete(self, names: Iterable[str], tables: Path | None = None) -> None:
        """Every file has one row and lies where that says; nothing is left."""
        assert self.files("inbox") == []
        rows = self.rows(tables)
        assert sorted(row["image_id"] for row in rows) == sorted(names)
        for folder, status in (("done", "scored"), ("failed", "failed")):
            said = Counter(row["sha256"] for row in rows if row["status"] == status)
            there = Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files(folder))
            assert {sha256 or hashlib.sha256().hexdigest(): n for sha256, n in said.items()} == there


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "watched")


@pytest.fixture(scope="module")
def regular(many: Path) -> list[Path]:
    """The files of `many` without its link: a watch leaves links alone."""
    return sorted(path for path in many.iterdir() if not path.is_symlink())


def test_rows_are_those_of_score(
    watched: Watched, regular: list[Path], server: EmbeddedServer, score: Score
) -> None:
    with watched.watch("--url", server.grpc_address) as process:
        for path in regular[-60:]:
            watched.arrive(path)
        wait_for(lambda: watched.n_filed() == 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    watched.check_complete(path.name for path in regular[-60:])
    expected = score(*regular[-60:], "--url", server.grpc_address).row_of
    for row in watched.rows():
        other = expected[row["image_id"]]
        assert (row["status"], row["reason"], row["decision"]) == (
            other["status"],
            other["reason"],
            other["decision"],
        )
        if row["status"] == "scored":
            assert probabilities(row) == pytest.approx(probabilities(other), abs=1e-6)


def test_a_watch_killed_at_any_moment_loses_nothing(
    watched: Watched, regular: list[Path], tiny_repository: Path
) -> None:
    """With a server of its own: tritonserver 2.51 may crash where a client is killed."""
    moments, waiting = np.random.default_rng(0), list(regular)
    for _ in range(4):
        with watched.watch("--repository", tiny_repository):
            n_filed = watched.n_filed()
            for _ in range(len(regular) // 5):
                watched.arrive(waiting.pop())
            wait_for(lambda n=n_filed: watched.n_filed() > n)
            time.sleep(moments.uniform(0, 0.7))
    with watched.watch("--repository", tiny_repository) as process:
        for path in waiting:
            watched.arrive(path)
        wait_for(lambda: not watched.files("inbox"))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    watched.check_complete(path.name for path in regular)


def test_a_server_that_dies_and_comes_back_costs_no_file_its_score(
    watched: Watched, regular: list[Path], tiny_repository: Path
) -> None:
    port = free_port()
    photos = [path for path in regular if path.stem.isdigit()][:120]
    with ExitStack() as dying, watched.watch("--url", f"127.0.0.1:{port}", "--wait", 2) as process:
        for path in photos:
            watched.arrive(path)
        wait_for(lambda: watched.events("waiting"))
        dying.enter_context(embedded_server(tiny_repository, listener=Listener(Ports(port))))
        wait_for(lambda: watched.events("scored"))
        dying.close()
        wait_for(lambda: watched.events("server_lost"))
        time.sleep(3)
        with embedded_server(tiny_repository, listener=Listener(Ports(port))):
            wait_for(lambda: len(watched.events("scored")) == len(photos))
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    assert watched.events("failed") == []
    watched.check_complete(path.name for path in photos)


def test_without_a_url_it_brings_its_own_server_and_ends_it(
    watched: Watched, regular: list[Path], tiny_repository: Path
) -> None:
    with watched.watch("--repository", tiny_repository) as process:
        watched.arrive(regular[0])
        wait_for(lambda: watched.events("scored"))
        below = server_processes(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert below
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)


def test_sigterm_before_the_server_is_there_is_a_clean_end(watched: Watched, tiny_repository: Path) -> None:
    with watched.watch("--repository", tiny_repository) as process:
        wait_for(lambda: server_processes(process.pid))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_full_disk_ends_it_and_the_next_start_goes_on(
    watched: Watched, regular: list[Path], server: EmbeddedServer
) -> None:
    """A real file system of 128 kB for ledger and tables."""
    tables = watched.root / "tables"
    tables.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tables)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    options = ("--url", server.grpc_address, "--output", tables)
    try:
        for path in regular:
            watched.arrive(path)
        with watched.watch(*options) as process:
            assert process.wait(60) == 1
        assert re.search("cannot be written.*(full|disk)", watched.said())
        assert len(watched.files("inbox")) > 10
        subprocess.run([*mount[:4], "remount,size=16m", *mount[5:]], check=True)
        with watched.watch(*options) as process:
            wait_for(lambda: not watched.files("inbox"))
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        watched.check_complete((path.name for path in regular), tables)
    finally:
        subprocess.run(["umount", str(tables)], check=True)
