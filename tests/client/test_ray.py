"""What Ray runs on each machine, and what a run takes from it; a real cluster is in tests/integration."""

import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.client.fakes import SPEC, Service

from fundus_client import batch, ray_engine
from fundus_client.journal import Journal, open_journal
from fundus_client.listener import PortTakenError
from fundus_client.member import Patience
from fundus_client.run import Job
from fundus_client.servers import Servers
from fundus_core.ensemble import ENSEMBLE_MODEL
from fundus_core.errors import BundleError, FundusError, MissingExtraError
from fundus_core.files import ImageRef, find_images
from fundus_core.rows import ScoreRow

ROOT = Path(__file__).resolve().parents[2]
N_FILES = 30  # of ten contents: the last ones are read when the first ones are answered
OTHER = dataclasses.replace(SPEC, version="2")


@pytest.fixture(autouse=True)
def sent_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake server reads a number where a picture has its pixels."""
    monkeypatch.setattr(batch, "without_metadata", lambda data: data)


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(N_FILES):
        (folder / f"{number:02}.jpg").write_bytes(b"%d no image" % (number % 10))
    return list(find_images([folder]))


@pytest.fixture
def journal(tmp_path: Path, refs: list[ImageRef]) -> Iterator[Journal]:
    with open_journal(tmp_path / "journal", fresh=False) as opened:
        opened.register(refs)
        opened.belongs_to(SPEC)
        yield opened


def asking(*services: Service, wait_s: float = 10) -> Servers:
    urls = [service.address for service in services]
    return Servers(urls, None, None, Patience(10, wait_s, in_flight=2), ENSEMBLE_MODEL)


def scored(refs: list[ImageRef], servers: Servers) -> Any:
    """What came of one block, after the journey from one process to another."""
    return pickle.loads(pickle.dumps(ray_engine._Actor(servers).score(refs)))  # noqa: S301 (our own)


def row_of(ref: ImageRef, reason: str = "") -> ScoreRow:
    if reason:
        return ScoreRow(ref.image_id, "", "failed", reason, None, None)
    return ScoreRow(ref.image_id, ref.image_id, "scored", "", (0.5,), ((0.5,), (0.5,)))


def taken(
    monkeypatch: pytest.MonkeyPatch, journal: Journal, refs: list[ImageRef], **block: Any
) -> Exception | None:
    """Let a cluster return one block."""
    values = {"host": "node-7", "spec": SPEC, "lost": None, "rows": [], "vanished": []} | block
    monkeypatch.setattr(ray_engine, "_scored", lambda *_: iter([ray_engine._Scored(**values)]))
    job = Job(refs, journal, begin=lambda spec: None, tick=lambda row: None)
    return ray_engine._score_missing(job, asking(), SPEC, cores=1)


def test_a_block_gives_each_file_its_row_and_stamp(refs: list[ImageRef]) -> None:
    refs.append(ImageRef("none.jpg", refs[0].path.with_name("none.jpg")))
    with Service() as service:
        block = scored(refs, asking(service))
    found = {row.image_id: (stamp, row) for stamp, row in block.rows}
    assert sorted(found) == [ref.image_id for ref in refs]
    for number, ref in enumerate(refs[:-1]):
        stamp, row = found[ref.image_id]
        assert stamp == ref.stamp()
        assert row.probability == (pytest.approx(number % 10 / 1000),)
    assert found["none.jpg"][1].reason.startswith("vanished:")
    assert (block.spec, block.lost, block.vanished) == (SPEC, None, refs[-1:])


def test_the_same_content_is_asked_for_once_in_a_block(refs: list[ImageRef]) -> None:
    with Service() as service:
        assert len(scored(refs, asking(service)).rows) == N_FILES
    assert sorted(service.served) == list(range(10))


def test_a_machine_that_loses_its_servers_says_so_and_keeps_what_was_answered(refs: list[ImageRef]) -> None:
    def dies(service: Service, number: int, context: grpc.ServicerContext) -> None:
        if number == 6:
            service.stop()

    with Service(dies) as service:
        block = scored(refs, asking(service, wait_s=1))
    assert 3 <= len(block.rows) < N_FILES
    assert all(row.status == "scored" for _, row in block.rows)
    assert block.lost.exit_code == 4
    assert "No Triton server is ready" in str(block.lost)


def test_what_cannot_be_started_is_said_with_the_machines_name(
    refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise PortTakenError("127.0.0.1", 8001)  # an error of two arguments

    monkeypatch.setattr(Servers, "running", fails)
    monkeypatch.setattr(ray_engine.socket, "gethostname", lambda: "node-7")
    block = scored(refs, asking())
    assert (block.spec, block.rows) == (None, [])
    assert str(block.lost) == f"node-7: {PortTakenError('127.0.0.1', 8001)}"


def test_a_block_is_in_the_journal_before_the_next_comes(
    monkeypatch: pytest.MonkeyPatch, journal: Journal, refs: list[ImageRef]
) -> None:
    lost = FundusError("node-7: gone")
    rows = [(ref.stamp(), row_of(ref)) for ref in refs[:5]]
    assert taken(monkeypatch, journal, refs, rows=rows, lost=lost) is lost
    assert journal.register(refs).n_known == 5


def test_nothing_is_taken_from_a_machine_with_another_bundle(
    monkeypatch: pytest.MonkeyPatch, journal: Journal, refs: list[ImageRef]
) -> None:
    rows = [(refs[0].stamp(), row_of(refs[0]))]
    with pytest.raises(BundleError, match=rf"node-7 serves no model 2 \({OTHER.digest[:12]}\), and this run"):
        taken(monkeypatch, journal, refs, spec=OTHER, rows=rows)
    journal.commit()
    assert journal.register(refs).n_known == 0


def test_a_file_that_only_another_machine_misses_is_a_missing_mount(
    monkeypatch: pytest.MonkeyPatch, journal: Journal, refs: list[ImageRef]
) -> None:
    rows = [(b"", row_of(ref, "vanished: gone.")) for ref in refs[:2]]
    refs[0].path.unlink()
    with pytest.raises(FundusError, match=r"node-7 does not see '01\.jpg', .* under the same path"):
        taken(monkeypatch, journal, refs, rows=rows, vanished=refs[:2])
    taken(monkeypatch, journal, refs, rows=rows[:1], vanished=refs[:1])
    assert journal.n_missing == len(refs) - 1


def test_blocks_are_small_in_a_small_run_and_bounded_in_a_large_one() -> None:
    sizes = [ray_engine.block_size(n) for n in (1, 10_000, 100_000, 10_000_000)]
    assert sizes == [16, 16, 97, 1024]


def test_the_plan_in_the_document_is_what_its_command_prints() -> None:
    line = [sys.executable, ROOT / "benchmarks" / "scale.py", "--plan"]
    plan = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout
    assert f"```\n{plan}```\n" in (ROOT / "docs" / "scale.md").read_text()


def test_starting_the_client_does_not_import_ray() -> None:
    code = "import sys, fundus_client.cli, fundus_client.ray_engine; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, journal: Journal, refs: list[ImageRef]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    job = Job(refs, journal, begin=lambda spec: None, tick=lambda row: None)
    with pytest.raises(MissingExtraError, match=r"fundus-triton\[ray\]"):
        ray_engine.score_on_ray(job, asking(), None)
