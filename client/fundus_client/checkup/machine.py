"""Is this computer fit to score photographs, and to serve the ensemble itself?"""

import os
import platform
import re
import shutil
import tempfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from rich.filesize import decimal as size

from fundus_client.batch import MAX_BYTES
from fundus_client.checkup.finding import Finding, explained
from fundus_client.journal import journal_path, open_journal
from fundus_client.sinks import check_output
from fundus_client.wheel import find_stub, find_wheel
from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import FundusError
from fundus_core.limits import ROOT, allowed_cores, free_memory_bytes, usable_cores
from fundus_core.serving import fitted, read_serving

MB = 10**6
FEW_FILES = 100_000
BYTES_PER_FILE = 600  # in the journal and the table
PROCESS_BYTES, CORE_BYTES, WEIGHT_COPIES = 100 * MB, 100 * MB, 3  # in the server's memory
SHARED_BYTES_PER_PROCESS = 2**20
ORDINARY_BATCH_BYTES = 8 * MB
_DISTRIBUTION = "fundus-triton"
_NAMED = (_DISTRIBUTION, "grpcio", "tritonclient", "numpy", "opencv-python-headless", "onnxruntime")
_GLIBC = (2, 35)  # of the wheel with the server


def software() -> Finding:
    """Return what a report of a fault needs: Python, platform, versions, optional parts."""
    libc = " ".join(platform.libc_ver())
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()} {libc}".strip()
    versions = (f"{name} {version(name)}" for name in _NAMED if _is_installed(name))
    extras = [name for name in metadata(_DISTRIBUTION).get_all("Provides-Extra", []) if not missing(name)]
    return Finding("ok", f"{system}; {', '.join(versions)}; extras: {', '.join(extras) or 'none'}")


def missing(extra: str) -> list[str]:
    """Return the distributions of an extra that are not installed."""
    marked = re.compile(rf"([\w.-]+).*\bextra == ['\"]{re.escape(extra)}['\"]")
    wanted = filter(None, map(marked.match, requires(_DISTRIBUTION) or ()))
    return [found[1] for found in wanted if not _is_installed(found[1])]


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def server_parts() -> Finding:
    """Look for what the embedded server is made of: the wheel, its stub for this Python, libpython."""
    if lacking := missing("embedded"):
        return Finding("problem", f"The embedded server lacks {', '.join(lacking)}.", _how_to_install())
    try:
        wheel = find_wheel()
        programs = (wheel.folder / "bin" / "tritonserver", find_stub(wheel.folder))
    except FundusError as error:
        return explained(error)
    for program in programs:
        if not os.access(program, os.X_OK):
            hint = "Install the environment on a file system that is not mounted noexec."
            return Finding("problem", f"'{program}' may not be executed.", hint)
    return Finding("ok", "The embedded server is installed, with its stub for this Python and libpython")


def _how_to_install() -> str:
    name, number = platform.libc_ver()
    if name == "glibc" and tuple(map(int, number.split("."))) >= _GLIBC:
        return "Install it with: pip install 'fundus-triton[embedded]'"
    wanted = ".".join(map(str, _GLIBC))
    return f"It needs Linux with glibc {wanted} or newer. Use a server elsewhere or in a container, by --url."


def cores(root: Path = ROOT) -> Finding:
    """Say how many cores the server uses, and whether it gets the time of a whole one."""
    allowed = allowed_cores(root)
    if allowed < 1:
        hint = "Allow it one or more (docker run --cpus)."
        return Finding("warning", f"The embedded server gets only {allowed:g} of one core's time.", hint)
    return Finding("ok", f"Cores for the embedded server: {usable_cores(root)}")


def memory(repository: Path, spec: EnsembleSpec, root: Path = ROOT) -> Finding:
    """Compare the available memory with what an embedded server of this bundle takes."""
    need, free = server_bytes(repository, spec), free_memory_bytes(root)
    takes = f"the embedded server takes about {size(need)}"
    if free >= need:
        return Finding("ok", f"Memory: {takes}" + (f" of {size(int(free))}" if free < 2**63 else ""))
    hint = "Close other programs, raise the limit (docker run --memory), or use a server elsewhere by --url."
    return Finding("warning", f"Only {size(int(free))} of memory are available; {takes}.", hint)


def server_bytes(repository: Path, spec: EnsembleSpec) -> int:
    """Return about how much memory an embedded server takes at its busiest."""
    weights = sum(path.stat().st_size for path in repository.glob("*/1/model.onnx"))
    processes = n_processes(repository, spec) * PROCESS_BYTES
    return processes + WEIGHT_COPIES * weights + usable_cores() * CORE_BYTES


def n_processes(repository: Path, spec: EnsembleSpec) -> int:
    """Return how many processes run the models: one a fold, one for the average, some that preprocess."""
    serving = fitted(read_serving(repository), usable_cores(), on_gpu=False)
    return len(spec.folds) + 1 + serving.preprocess_instances


def shared_memory(
    repository: Path,
    spec: EnsembleSpec,
    folder: Path = Path("/dev/shm"),  # noqa: S108
) -> Finding:
    """Look at the shared memory through which the Python backend hands images to its models."""
    least = n_processes(repository, spec) * SHARED_BYTES_PER_PROCESS + ORDINARY_BATCH_BYTES
    ample = least + 2 * MAX_BYTES
    hint = f"Give it {size(ample)} or more (docker run --shm-size)."
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return Finding("problem", f"There is no '{folder}', through which the server hands images.", hint)
    what = f"{size(free)} are free in '{folder}', through which the server hands images"
    if free >= ample:
        return Finding("ok", what)
    if free >= least:
        return Finding("warning", f"{what}: too little for large files.", hint)
    return Finding("problem", f"{what}: too little.", hint)


def temporary_folder() -> Finding:
    """Write to the folder for temporary files, where the embedded server has its log."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(2**16))
    except OSError as error:
        what = f"Temporary files cannot be written: {error.strerror}."
        return Finding("problem", what, "Make room, or let TMPDIR name a folder that can be written.")
    return Finding("ok", f"Temporary files can be written to '{tempfile.gettempdir()}'")


def output_place(output: Path) -> Finding:
    """Keep a journal beside the table for a moment, and count for how many files there is room."""
    try:
        check_output(output)
    except FundusError as error:
        return explained(error)
    folder = output.absolute().parent
    if trouble := _trouble_with_journal(folder):
        hint = "Choose an --output that you may write to, on a disk that has room and knows file locks."
        return replace(trouble, next_step=hint)
    free = shutil.disk_usage(folder).free
    what = f"{size(free)} are free in '{folder}'; table and journal take {BYTES_PER_FILE} bytes a file"
    if free < FEW_FILES * BYTES_PER_FILE:
        return Finding("warning", f"{what}.", "Make room, or choose an --output on another disk.")
    return Finding("ok", what)


def _trouble_with_journal(folder: Path) -> Finding | None:
    path = journal_path(folder / f".fundus-doctor-{os.getpid()}")
    try:
        with open_journal(path, fresh=False):
            return None
    except FundusError as error:
        return explained(error)
    finally:
        for left in folder.glob(f"{path.name}*"):
            left.unlink(missing_ok=True)
