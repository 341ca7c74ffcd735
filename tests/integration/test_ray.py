"""`ray_engine` on a real cluster: two nodes on loopback addresses, each with a tritonserver of its own."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import N_FILES, run_score, wait_for

from fundus_client import supervisor
from fundus_client.embedded import EmbeddedServer
from fundus_client.journal import Found, open_journal
from fundus_client.member import Patience
from fundus_client.ray_engine import score_on_ray
from fundus_client.run import Job, score_locally, write_table
from fundus_client.servers import Servers
from fundus_client.sources import Ref
from fundus_core.acquisition import Acquisition
from fundus_core.files import find_images
from fundus_core.images import ImageLimits
from fundus_core.rows import ScoreRow

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
N_KNOWN = 100
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
ADDRESSES = ("127.0.0.2", "127.0.0.3")  # 127.0.0.1 Ray would turn into the address of the network card
SECONDS_TO_MISS_A_NODE = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 3,
}


@dataclass(frozen=True)
class Held:
    """A file that is read when `gate` is there; `log` tells which process wanted it."""

    ref: Ref
    gate: Path
    log: Path

    @property
    def image_id(self) -> str:
        return self.ref.image_id

    @property
    def acquisition(self) -> Acquisition | None:
        return self.ref.acquisition

    def size_bytes(self) -> int:
        return self.ref.size_bytes()

    def stamp(self) -> bytes:
        return self.ref.stamp()

    def read(self, limits: ImageLimits) -> bytes:
        with self.log.open("a") as log:
            log.write(f"{os.getpid()} {self.image_id}\n")
        while not self.gate.exists():
            time.sleep(0.02)
        return self.ref.read(limits)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one core each."""
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the nodes know nothing of the tests
    head = {**NODE, "node_ip_address": ADDRESSES[0], "include_dashboard": False}
    running = Cluster(True, head_node_args={**head, "_system_config": SECONDS_TO_MISS_A_NODE})
    try:
        running.add_node(**NODE, node_ip_address=ADDRESSES[1])
        yield running
    finally:
        running.shutdown()


def readers(log: Path) -> set[int]:
    return {int(line.split()[0]) for line in log.read_text().splitlines()} if log.exists() else set()


def readers_on(node: Any, log: Path) -> list[int]:
    """Those whose parent is the node's raylet."""
    raylet = node.all_processes["raylet"][0].process.pid
    return [reader for reader in readers(log) if parent(reader) == raylet]


def parent(pid: int) -> int | None:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def servers_of(clients: set[int]) -> list[Path]:
    """What still supervises an embedded server of one of these processes."""
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if _supervises(path, clients)]


def _supervises(command: Path, clients: set[int]) -> bool:
    with suppress(OSError):
        words = command.read_text(errors="replace").split("\0")
        return supervisor.__file__ in words and bool(
            clients & {int(word) for word in words if word.isdigit()}
        )
    return False


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:ray")  # by Ray, of itself
def test_a_run_goes_on_with_ray_and_loses_a_node_and_its_table_is_the_same(
    tmp_path: Path, cluster: Any, many: Path, tiny_repository: Path, server: EmbeddedServer
) -> None:
    local = run_score(tmp_path / "local", many, "--url", server.grpc_address)
    gate, log, output = tmp_path / "gate", tmp_path / "log", tmp_path / "scores.csv"
    refs = [Held(ref, gate, log) for ref in find_images([many])]
    rows: list[ScoreRow] = []

    def kill_a_node_at_work() -> None:
        lasting, passing = cluster.list_all_nodes()
        try:
            wait_for(lambda: readers_on(lasting, log) and readers_on(passing, log), timeout_s=240)
            cluster.remove_node(passing, allow_graceful=False)
        finally:
            gate.touch()

    with open_journal(tmp_path / "journal", fresh=False) as journal:
        known = Job([ref.ref for ref in refs[:N_KNOWN]], journal, journal.belongs_to, rows.append)
        score_locally(known, Servers([server.grpc_address], None, None, Patience()))
        assert journal.register(refs) == Found(N_FILES, N_KNOWN)
        rows.clear()
        threading.Thread(target=kill_a_node_at_work).start()
        others = Servers([], tiny_repository, None, Patience(in_flight=16))
        end = score_on_ray(Job(refs, journal, journal.belongs_to, rows.append), others, cluster.address)
        write_table(journal, output, end)

    assert end.lost is None
    assert output.read_bytes() == local.output.read_bytes()
    assert len(rows) == N_FILES - N_KNOWN
    assert len(log.read_text().splitlines()) > len(rows), "the node that was killed had nothing under way"
    wait_for(lambda: not servers_of(readers(log)))
