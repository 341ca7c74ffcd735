"""One of three real servers is killed, or falls silent: how long does nobody answer?"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tests.client.test_batch import Remembered
from tests.integration.conftest import N_FILES, server_processes

from fundus_client.batch import Batch
from fundus_client.embedded import EmbeddedServer, embedded_server
from fundus_client.member import Patience
from fundus_client.pool import open_pool
from fundus_client.servers import RemoteEndpoint
from fundus_core.files import find_images
from fundus_core.rows import ScoreRow

DEADLINE_S = 10.0  # for one answer
N_BEFORE = 60  # answers before the trouble


@dataclass
class Clocked(Remembered):
    """Rows with the time of each; the server is in trouble after `N_BEFORE` of them."""

    victim: int = 0
    trouble: signal.Signals = signal.SIGKILL
    at_s: list[float] = field(default_factory=list)

    def record(self, image_id: str, stamp: bytes, row: ScoreRow) -> None:
        super().record(image_id, stamp, row)
        self.at_s.append(time.monotonic())
        if len(self.at_s) == N_BEFORE:
            os.kill(self.victim, self.trouble)


@contextmanager
def three_servers(repository: Path) -> Iterator[list[EmbeddedServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(embedded_server(repository)) for _ in range(3)]


@pytest.mark.parametrize("trouble", [signal.SIGKILL, signal.SIGSTOP])
def test_there_is_no_pause_longer_than_the_deadline(
    many: Path,
    tiny_repository: Path,
    record_testsuite_property: Callable[[str, object], None],
    trouble: signal.Signals,
) -> None:
    async def run(endpoints: list[RemoteEndpoint]) -> None:
        async with open_pool(endpoints, Patience(DEADLINE_S, 60)) as pool:
            await Batch(pool, memory).run(find_images([many]))

    with three_servers(tiny_repository) as servers:
        victim = server_processes(servers[0].supervisor.pid)[0]
        memory = Clocked(victim=victim, trouble=trouble)
        try:
            asyncio.run(run([RemoteEndpoint(each.grpc_address, None) for each in servers]))
        finally:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)
    pauses_s = np.diff(memory.at_s)
    # in the file of --junit-xml
    record_testsuite_property(f"longest pause after {trouble.name}, s", pauses_s[N_BEFORE - 1 :].max())
    assert len(memory.rows) == N_FILES
    assert sum(row.status == "failed" for row in memory.rows.values()) == 4
    assert pauses_s.max() < DEADLINE_S
