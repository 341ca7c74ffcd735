"""What is no bug becomes a sentence and an exit code at the terminal."""

import errno
import os
import subprocess
from importlib import import_module

import click
import pytest
from click.testing import CliRunner
from tests.conftest import COMMANDS, command

from fundus_core.console import FundusGroup
from fundus_core.errors import BundleError, UsageError

FULL = OSError(errno.ENOSPC, "No space left on device")


def raising(error: Exception) -> FundusGroup:
    """Return a group whose command `fail` raises an error."""

    @click.command()
    def fail() -> None:
        raise error

    return FundusGroup(commands={"fail": fail})


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BundleError("It is broken. Mend it."), 1, "It is broken. Mend it."),
        (UsageError("That is none. Give one."), 2, "That is none. Give one."),
        (
            PermissionError(errno.EACCES, "Permission denied", "out/x.csv"),
            2,
            "'out/x.csv': Permission denied. Mend that or give another path, and run the command again.",
        ),
        (FULL, 1, "No space left on device. Mend that and run the command again."),
    ],
)
def test_what_is_no_bug_is_a_sentence(error: Exception, code: int, said: str) -> None:
    done = CliRunner().invoke(raising(error), ["fail"])
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", f"Error: {said}\n")


@pytest.mark.parametrize("error", [ValueError("a bug"), TimeoutError(), OSError("not the system's")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    assert CliRunner().invoke(raising(error), ["fail"]).exception is error


@pytest.mark.parametrize("name", ["client", "eval", "export", "train"])
def test_all_commands_say_so(name: str) -> None:
    assert isinstance(import_module(f"fundus_{name}.cli").main, FundusGroup)


def test_whoever_reads_the_output_may_leave() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        line = [COMMANDS / "fundus-client", "score", "--help"]
        done = subprocess.run(line, stdout=gone, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_folder_that_cannot_be_made() -> None:
    done = command("client", "sample", "/dev/null/x", "--count", 1)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: '/dev/null/x': Not a directory. ")
    assert len(done.stderr.splitlines()) == 1
