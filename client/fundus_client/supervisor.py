"""Keep one tritonserver alive for exactly as long as the client that asked for it.

    python supervisor.py CLIENT_PID RUNTIME_FOLDER PROGRAM [ARGUMENT ...]

`fundus_client.embedded` starts this file in a session of its own; it needs the standard library only.

    client ends or asks (SIGTERM)  ->  SIGTERM to the server, after `GRACE_S` SIGKILL to its process group,
                                       then its shared memory is removed
    client was killed              ->  the same, and the runtime folder is removed: nobody else will
    server ends                    ->  stubs killed, shared memory removed; exits with the server's code
    supervisor is killed           ->  the kernel sends SIGTERM to the server, which ends its stubs itself;
                                       the client kills what is left (`clear`): with requests in flight a
                                       server can hang there
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

EXIT_TIMEOUT_S = 5  # the server's own bound for requests in flight
GRACE_S = EXIT_TIMEOUT_S + 3  # unloading the models takes the server 2 to 3 s more
KILL_TIMEOUT_S = 2.0
_POLL_S = 0.2
_WAKING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None)


def supervise(client_pid: int, runtime: Path, command: list[str]) -> int:
    """Run the command until it or the client ends; return its exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAKING)
    # stubs of a killed server become ours, so that _reap_stubs sees their end
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    server = subprocess.Popen(command, start_new_session=True, preexec_fn=_tie_to_supervisor)
    _wait_for_end(server, client_pid)
    _end(server)
    _reap_stubs()
    _remove_shared_memory(runtime)
    if os.getppid() != client_pid:
        shutil.rmtree(runtime, ignore_errors=True)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode  # as shells do


def _tie_to_supervisor() -> None:
    """Between fork and exec: the server ends with the supervisor, and hears signals again."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAKING)


def _wait_for_end(server: subprocess.Popen[bytes], client_pid: int) -> None:
    """Return when the server ended, the client is gone, or somebody asks for the end."""
    # The parent's id, not the end of a pipe: a process forked by the client would keep a pipe open.
    while server.poll() is None and os.getppid() == client_pid:
        info = signal.sigtimedwait(_WAKING, _POLL_S)
        if info is not None and info.si_signo != signal.SIGCHLD:
            return


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, then kill what is left of its process group."""
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _reap_stubs() -> None:
    """Wait until every killed stub is gone, so that none holds shared memory or a file any more."""
    deadline_s = time.monotonic() + KILL_TIMEOUT_S
    with suppress(ChildProcessError):
        while time.monotonic() < deadline_s:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)


def clear(runtime: Path) -> None:
    """Kill the processes that a killed supervisor left behind, and remove their shared memory."""
    name = runtime.name.encode()
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # ended meanwhile, or somebody else's
            words = line.read_bytes().split(b"\0")
            # the server has it for its id, a stub for the start of its region's name
            if any(word.removeprefix(b"--id=").startswith(name) for word in words):
                os.kill(int(line.parent.name), signal.SIGKILL)
    _remove_shared_memory(runtime)


def _remove_shared_memory(runtime: Path) -> None:
    """Remove the Python backend's regions in /dev/shm: their names start with the runtime folder's name."""
    for region in Path("/dev/shm").glob(f"{runtime.name}*"):  # noqa: S108 (where glibc keeps shm_open's regions)
        region.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(supervise(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
