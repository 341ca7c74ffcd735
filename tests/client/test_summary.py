"""What a run prints of its counts: the same lines as ever in a pipe, a table on a terminal."""

import os
import pty
import subprocess
import sys

from fundus_client.run import RunSummary

COUNTS = (
    "from fundus_client.commands.summary import print_counts\n"
    "from fundus_client.run import RunSummary\n"
    "print_counts(RunSummary(10, 7, 2, 0, {'empty': 1, 'corrupt': 2}, 4.0))\n"
)


def test_a_pipe_gets_lines_for_programs() -> None:
    done = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "scored 7 of 10 files in 4.0 s, 2.5 images/s",
        "failed 2: corrupt",
        "failed 1: empty",
        "ungradable 2: scored, but look at the column `ungradable`",
    ]


def test_files_that_were_never_sent_are_no_speed() -> None:
    done = RunSummary(100, 5, 0, 10, {"server_unreachable": 70, "corrupt": 15}, 4.0)
    assert done.images_per_s == 5.0  # 5 scored and 15 refused


def test_a_terminal_gets_a_table_with_aligned_counts() -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "100"}
    with os.fdopen(ours, "rb") as terminal:
        subprocess.run([sys.executable, "-c", COUNTS], stdout=theirs, env=environment, check=True)
        os.close(theirs)
        lines = os.read(terminal.fileno(), 10_000).decode().splitlines()
    assert [line.rstrip().split(maxsplit=2) for line in lines] == [
        ["10", "files", "4.0 s, 2.5 images/s"],
        ["7", "scored"],
        ["2", "failed", "corrupt"],
        ["1", "failed", "empty"],
        ["2", "ungradable", "scored, but look at the column `ungradable`"],
    ]
    assert len({line.index(line.split()[0]) + len(line.split()[0]) for line in lines}) == 1
