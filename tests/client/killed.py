"""A program for `test_filing`: answer two files without a server, killed before each line of the filing.

    python killed.py ROOT DONE

For each n a process of its own begins in ROOT/n and DONE/n, and is killed before the n-th line of the code
that records, writes and moves. Another one goes on from there, and now and then is killed too. The program
ends when the first was not killed any more, and writes that n.
"""

import hashlib
import os
import signal
import sys
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

from fundus_client.watching import filing, ledger, moving
from fundus_client.watching.filing import Answered, Filing, Outcome, Places
from fundus_client.watching.inbox import Arrival, Inbox
from fundus_client.watching.ledger import open_ledger
from fundus_core.rows import ScoreFormat, ScoreRow

FORM = ScoreFormat(("glaucoma",), (0.5,), 2, "0123456789abcdef")
NAMES = ("eye/b.jpg", "failed.jpg")
LEDGER = "ledger"
WATCHED = {module.__file__ for module in (filing, ledger, moving)}


def set_up(root: Path, done: Path) -> Places:
    """Two files in an inbox, and an older one of the same name in DONE."""
    places = Places(root / "inbox", done, root / "failed", root / "tables")
    for folder in (places.inbox / "eye", places.done / "eye", places.failed, places.tables):
        folder.mkdir(parents=True)
    for name in NAMES:
        (places.inbox / name).write_text(f"new {name}")
    (places.done / "eye" / "b.jpg").write_text("an older file")
    return places


def answer(places: Places, arrival: Arrival, form: ScoreFormat = FORM) -> Answered:
    """Answer one half, or a reason where the name has "failed" in it."""
    sha256 = hashlib.sha256((places.inbox / arrival.name).read_bytes()).hexdigest()
    if "failed" in arrival.name:
        row = ScoreRow(arrival.image_id, sha256, "failed", "corrupt: It is cut off.", None, None)
    else:
        row = ScoreRow(arrival.image_id, sha256, "scored", "", (0.5,), ((0.5,), (0.5,)))
    return Answered(arrival, row, form)


def file_all(places: Places) -> list[Outcome]:
    """Go on with what is begun, and file everything else."""
    inbox = Inbox(places.inbox, settle_s=0)
    with open_ledger(places.tables / LEDGER) as opened:
        filing = Filing(places, opened)
        taken = filing.resume((name, name) for name in inbox.names())
        return filing.file([answer(places, arrival) for arrival in inbox.scan(taken).ready])


def was_killed(places: Places, n: int) -> bool:
    """File in a process that ends before line n, 0: never; whether it did."""
    pid = os.fork()
    if pid:
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    lines = count(1)

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and next(lines) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace if frame.f_code.co_filename in WATCHED else None

    code = 1
    try:
        sys.settrace(trace if n else None)
        file_all(places)
        code = 0
    finally:
        os._exit(code)


def main(root: Path, done: Path) -> None:
    """Kill at every line."""
    for n in count(1):
        places = set_up(root / str(n), done / str(n))
        if not was_killed(places, n):
            sys.stdout.write(str(n))
            return
        if n % 3 == 0:
            was_killed(places, 7 * n % 150 + 1)
        was_killed(places, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
