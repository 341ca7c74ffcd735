"""Our listener in a test, and real senders."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import Dataset
from pynetdicom import build_context
from tests.pacs.conftest import program

from fundus_client.pacs.peer import Caller, Peer, association, code_of
from fundus_client.pacs.receive import Listening, Stored, receiving

US = Caller("SENDER")


@contextmanager
def listening(
    folder: Path, on_stored: Callable[[Stored], None] = lambda _: None, **settings: object
) -> Iterator[Peer]:
    """Our listener, as others call it."""
    with receiving(folder, Listening(**{"port": 0} | settings), on_stored) as receiver:  # type: ignore[arg-type]
        yield Peer("FUNDUS", "127.0.0.1", receiver.port)


def store(peer: Peer, *objects: Dataset, caller: Caller = US) -> list[int]:
    """Send objects; return the statuses."""
    contexts = [build_context(objects[0].SOPClassUID, objects[0].file_meta.TransferSyntaxUID)]
    with association(peer, caller, contexts) as opened:
        return [code_of(opened.send_c_store(each), peer) for each in objects]


def storescu(peer: Peer, *arguments: object) -> int:
    """Send files as dcmtk does; return the exit code."""
    line = [program("storescu"), "-aec", peer.ae_title, peer.host, peer.port, *arguments]
    return subprocess.run([*map(str, line)], capture_output=True, timeout=30).returncode


def on_disk(folder: Path) -> set[str]:
    """Every file below."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
