"""The issue's list of bad input, through the real tritonserver: a row or a sentence, never a traceback."""

import ctypes
import os
import shutil
import signal
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration.conftest import (
    N_FILES,
    Score,
    Scored,
    end,
    flat,
    n_committed,
    probabilities,
    read_rows,
    run_score,
    scored_alone,
    server_processes,
    start,
    wait_for,
)

from fundus_client.embedded import EmbeddedServer, embedded_server
from fundus_client.journal import journal_path, open_journal
from fundus_client.member import Patience
from fundus_client.run import Job, score_locally, write_table
from fundus_client.servers import Servers
from fundus_client.sources import open_source
from fundus_core.ensemble import EnsembleSpec

REASONS = {
    "bomb.png": "too_many_pixels",
    "empty.jpg": "empty",
    "gone.png": "vanished",
    "half.jpg": "corrupt",
    "locked/": "unreadable",
    "pipe.jpg": "not_a_file",
    "secret.jpg": "unreadable",
    "text.jpg": "not_an_image",
    "zero.png": "not_an_image",
}
GOOD = (
    "left/1.jpg",
    "right/1.jpg",
    "a name.jpg",
    "Größe→眼.jpg",
    "new\nline.jpg",
    'comma,"quote".jpg',
    os.fsdecode(b"no\xffutf8.jpg"),
)


def png_header(width_px: int, height_px: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def without_root_powers() -> None:
    """Between fork and exec: root, too, must then obey file permissions."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability)  # PR_CAPBSET_DROP


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Iterator[Path]:
    """Every kind of bad file among good ones; each good one is another phantom."""
    folder = tmp_path_factory.mktemp("mixed")
    for photo, name in zip(photos, GOOD, strict=False):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(photo, folder / name)
    content = photos[-1].read_bytes()
    (folder / "text.jpg").write_text("not a photograph")
    (folder / "half.jpg").write_bytes(content[: len(content) // 2])
    (folder / "empty.jpg").touch()
    (folder / "zero.png").write_bytes(png_header(0, 0))
    (folder / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (folder / "gone.png").symlink_to("nothing.png")
    (folder / "secret.jpg").write_bytes(content)
    (folder / "locked").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "secret.jpg").chmod(0)
    (folder / "locked").chmod(0)
    yield folder
    (folder / "locked").chmod(0o700)


@pytest.fixture(scope="module")
def mixed_scored(tmp_path_factory: pytest.TempPathFactory, mixed: Path, server: EmbeddedServer) -> Scored:
    folder = tmp_path_factory.mktemp("out")
    return run_score(folder, mixed, "--url", server.grpc_address, preexec_fn=without_root_powers)


def test_every_file_has_one_row(mixed_scored: Scored) -> None:
    assert [row["image_id"] for row in mixed_scored.rows] == sorted([*REASONS, *GOOD])
    assert mixed_scored.code == 3
    assert f"scored {len(GOOD)} of {len(REASONS) + len(GOOD)} files" in mixed_scored.stdout


@pytest.mark.parametrize("image_id", REASONS)
def test_a_bad_file_has_a_reason_and_no_score(mixed_scored: Scored, image_id: str) -> None:
    row = mixed_scored.row_of[image_id]
    code, _, sentence = row["reason"].partition(": ")
    assert (row["status"], code, row["probability"], row["decision"]) == ("failed", REASONS[image_id], "", "")
    assert sentence.endswith(".")


def test_a_good_file_has_its_own_score(mixed_scored: Scored, mixed: Path, server: EmbeddedServer) -> None:
    alone = scored_alone(server.grpc_address, [(mixed / name).read_bytes() for name in GOOD])
    rows = [mixed_scored.row_of[name] for name in GOOD]
    assert {row["status"] for row in rows} == {"scored"}
    for row, answer in zip(rows, alone, strict=True):
        assert probabilities(row) == pytest.approx(flat(answer), abs=1e-6)
    assert len({row["probability"] for row in rows}) == len(GOOD), "else the comparison would prove nothing"


def test_a_file_that_vanishes_during_the_run(
    tmp_path: Path, photos: list[Path], server: EmbeddedServer
) -> None:
    images = [Path(shutil.copy(photo, tmp_path)) for photo in photos[:5]]
    output = tmp_path / "scores.csv"
    source = open_source([str(tmp_path)], None)

    servers = Servers([server.grpc_address], None, None, Patience())

    def begin(spec: EnsembleSpec) -> None:
        journal.belongs_to(spec)
        images[-1].unlink()

    with open_journal(journal_path(output), fresh=False) as journal:
        journal.register(source)
        end = score_locally(Job(source, journal, begin, lambda row: None), servers)
        write_table(journal, output, end)
    assert [row["status"] for row in read_rows(output)] == ["scored"] * 4 + ["failed"]
    assert read_rows(output)[-1]["reason"].startswith("vanished: ")


@pytest.mark.parametrize(
    ("name", "sentence"), [("notes.txt", "There is no image in what was given"), (None, "Check the path.")]
)
def test_nothing_to_score(tmp_path: Path, score: Score, name: str | None, sentence: str) -> None:
    if name:
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / name).touch()
    done = score(tmp_path / "images", "--url", "localhost:1")
    assert done.code == 2
    assert sentence in done.stderr
    assert not done.output.exists()


@dataclass(frozen=True)
class LabelCase:
    lines: tuple[str, ...]
    code: int
    said: tuple[str, ...]


LABELS = {
    "no such image": LabelCase(
        ("0,1", "1,0", "elsewhere.jpg,1"), 0, ("1 without an image", "1 without a label")
    ),
    "one class": LabelCase(("0,1", "1,1"), 0, ("All 2 images are positive. Add negative images",)),
    "no common id": LabelCase(
        ("elsewhere.jpg,1",), 2, ("No image has a label", "relative to the same folder")
    ),
    "twice": LabelCase(("0,1", "0,1"), 2, ("lines 2 and 3", "Keep one of them")),
    "not 0 or 1": LabelCase(("0,yes",), 2, ("line 2 has glaucoma = 'yes'. Write 0, 1,",)),
    "empty": LabelCase((), 2, ("It needs a header line",)),
}


@pytest.mark.parametrize("case", LABELS.values(), ids=LABELS)
def test_labels(
    tmp_path: Path, photos: list[Path], server: EmbeddedServer, score: Score, case: LabelCase
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, photo in enumerate(photos[:3]):
        shutil.copy(photo, images / f"{number}.jpg")
    labels = tmp_path / "labels.csv"
    lines = (line.replace(",", ".jpg,", 1) if line[0].isdigit() else line for line in case.lines)
    labels.write_text("\n".join(["image_id,glaucoma", *lines]) + "\n")
    done = score(images, "--labels", labels, "--url", server.grpc_address)
    assert done.code == case.code
    assert len(done.rows) == (3 if case.code == 0 else 0), (
        "scores stay where only the comparison is impossible"
    )
    for part in case.said:
        assert part in done.stdout + done.stderr


def test_no_server(phantom_folder: Path, score: Score) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        started = time.monotonic()
        done = score(phantom_folder, "--url", f"127.0.0.1:{unused.getsockname()[1]}", "--wait", 1)
    assert (done.code, done.rows) == (4, [])
    assert "Check that it runs" in done.stderr
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("url", ["http://localhost:8001", "localhost", ""])
def test_an_address_that_is_none(phantom_folder: Path, score: Score, url: str) -> None:
    done = score(phantom_folder, "--url", url)
    assert done.code == 2
    assert "Write host:port" in done.stderr


@pytest.fixture
def own_server(tiny_repository: Path, server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """A server to be maltreated."""
    with embedded_server(tiny_repository) as running:
        yield running


def test_a_server_that_does_not_answer(
    own_server: EmbeddedServer, phantom_folder: Path, score: Score
) -> None:
    pid = server_processes(own_server.supervisor.pid)[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        done = score(phantom_folder, "--url", own_server.grpc_address, "--wait", 1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done.code == 4
    assert "No Triton server is ready" in done.stderr


def test_a_server_that_stays_away_leaves_a_row_for_every_file(
    tmp_path: Path, many: Path, own_server: EmbeddedServer, server: EmbeddedServer
) -> None:
    output = tmp_path / "scores.csv"
    client = start(many, output, "--url", own_server.grpc_address, "--wait", 2)
    wait_for(lambda: client.poll() is not None or n_committed(output) > 20)
    processes = server_processes(own_server.supervisor.pid)
    os.kill(processes[0], signal.SIGKILL)
    code, said = end(client)
    assert code == 4
    assert "Run the same command again to go on" in said
    rows = read_rows(output)
    assert len(rows) == N_FILES
    scored = [row for row in rows if row["status"] == "scored"]
    reasons = Counter(row["reason"].partition(":")[0] for row in rows)
    assert scored
    assert reasons["server_unreachable"] > 0
    alone = scored_alone(server.grpc_address, [(many / row["image_id"]).read_bytes() for row in scored[:8]])
    for row, answer in zip(scored[:8], alone, strict=True):
        assert probabilities(row) == pytest.approx(flat(answer), abs=1e-6)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), 20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_client_leaves_the_server_alive(
    tmp_path: Path, many: Path, own_server: EmbeddedServer, score: Score, number: signal.Signals
) -> None:
    """Tritonserver 2.51 may crash when requests in flight are cancelled, so the client waits for them."""
    client = start(many, tmp_path / "scores.csv", "--url", own_server.grpc_address)
    wait_for(lambda: client.poll() is not None or n_committed(tmp_path / "scores.csv"))
    client.send_signal(number)
    assert end(client)[0] == 1
    assert score(many / "000.jpg", "--url", own_server.grpc_address, "--wait", 5).code == 0


def test_an_interrupted_client_ends_its_own_server(tmp_path: Path, many: Path, tiny_repository: Path) -> None:
    client = start(many, tmp_path / "scores.csv", "--repository", tiny_repository)
    wait_for(lambda: client.poll() is not None or n_committed(tmp_path / "scores.csv"))
    processes = server_processes(client.pid)
    client.send_signal(signal.SIGINT)
    assert end(client)[0] == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)


def test_a_disk_that_is_full(many: Path, server: EmbeddedServer, score: Score) -> None:
    import resource

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))

    done = score(many, "--url", server.grpc_address, preexec_fn=small_files_only)
    assert (done.code, done.rows) == (1, [])
    assert "cannot be written" in done.stderr
