"""What the doctor finds on computers that are not fit: simulated where this one is."""

import math
import os
import platform
import shutil
import tempfile
from collections import namedtuple
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from tests.conftest import bare_spec, files_up_to

from fundus_client import wheel
from fundus_client.checkup import machine
from fundus_client.checkup.finding import Finding
from fundus_core.limits import allowed_cores, free_memory_bytes, usable_cores

MB, GB = 10**6, 10**9
SPEC = bare_spec(4)
Disk = namedtuple("Disk", "total used free")


def system(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A /proc and /sys of these control groups, on a computer with 8 GB of free memory."""
    memory = "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n"
    for name, text in {"proc/self/cgroup": groups, "proc/meminfo": memory, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2, V1 = "0::/a/b\n", "4:memory:/docker/1\n1:cpu,cpuacct:/docker/1\n"
SYSTEMS = {
    "no limit": (V2, {"a/b/memory.max": "max\n", "a/b/cpu.max": "max 100000\n"}, math.inf, 8.192 * GB),
    "own": (V2, {"a/b/memory.max": f"{GB}\n", "a/b/cpu.max": "150000 100000\n"}, 1.5, GB),
    "parent's": (
        V2,
        {"a/memory.max": f"{GB}", "a/b/memory.max": f"{2 * GB}", "cpu.max": "50000 100000"},
        0.5,
        GB,
    ),
    "version 1": (
        V1,
        {
            "memory/docker/1/memory.limit_in_bytes": f"{GB}\n",
            "cpu,cpuacct/docker/1/cpu.cfs_quota_us": "200000\n",
            "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
        },
        2.0,
        GB,
    ),
    "version 1, in a container": (V1, {"memory/memory.limit_in_bytes": f"{GB}\n"}, math.inf, GB),
    "version 1, no limit": (
        V1,
        {
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        math.inf,
        8.192 * GB,
    ),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_limits_of_control_groups_count(tmp_path: Path, name: str) -> None:
    groups, files, cores, memory_bytes = SYSTEMS[name]
    root = system(tmp_path, groups, {f"sys/fs/cgroup/{path}": text for path, text in files.items()})
    assert (allowed_cores(root), free_memory_bytes(root)) == (cores, memory_bytes)


def test_a_system_that_tells_nothing_limits_nothing(tmp_path: Path) -> None:
    assert (allowed_cores(tmp_path), free_memory_bytes(tmp_path)) == (math.inf, math.inf)
    assert machine.cores(tmp_path).level == machine.memory(tmp_path, SPEC, tmp_path).level == "ok"


@pytest.mark.parametrize(("quota_us", "n_threads"), [("max", 8), (50_000, 1), (150_000, 2), (900_000, 8)])
def test_threads_are_as_many_as_cores_and_their_time(
    quota_us: object, n_threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    root = system(tmp_path, V2, {"sys/fs/cgroup/cpu.max": f"{quota_us} 100000\n"})
    assert usable_cores(root) == n_threads


def test_this_system_tells_how_much_memory_is_free() -> None:
    assert 10 * MB < free_memory_bytes() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_too_little_of_a_core_or_of_memory_is_a_warning(tmp_path: Path) -> None:
    limits = {"sys/fs/cgroup/cpu.max": "50000 100000", "sys/fs/cgroup/memory.max": f"{300 * MB}"}
    root = system(tmp_path, V2, limits)
    slow, tight = machine.cores(root), machine.memory(tmp_path, SPEC, root)
    assert (slow.level, tight.level) == ("warning", "warning")
    assert slow.what == "The embedded server gets only 0.5 of one core's time."
    assert tight.what.startswith("Only 300.0 MB of memory are available; the embedded server takes about ")
    assert "docker run --memory" in tight.next_step


def test_the_server_of_larger_weights_takes_more_memory(tmp_path: Path) -> None:
    before = machine.server_bytes(tmp_path, SPEC)
    path = tmp_path / "fundus_fold_0" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.touch()
    os.truncate(path, GB)
    assert machine.server_bytes(tmp_path, SPEC) == before + 3 * GB


def test_processes_that_the_bundle_asks_for_take_memory(tmp_path: Path) -> None:
    (tmp_path / "serving.json").write_text('{"preprocess_instances": 40}')
    assert machine.n_processes(tmp_path, SPEC) == len(SPEC.folds) + 1 + 40


@pytest.mark.parametrize(
    ("free_mb", "level", "said"),
    [
        (5, "problem", ": too little."),
        (64, "warning", ": too little for large files."),
        (1000, "ok", "1.0 GB are free in '/dev/shm'"),
    ],
)
def test_a_containers_little_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_mb: int, level: str, said: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(0, 0, free_mb * MB))
    found = machine.shared_memory(tmp_path, SPEC)
    assert found.level == level
    assert said in found.what
    assert ("docker run --shm-size" in found.next_step) == (level != "ok")


def test_no_shared_memory_at_all(tmp_path: Path) -> None:
    found = machine.shared_memory(tmp_path, SPEC, tmp_path / "shm")
    assert (found.level, found.what.split(",")[0]) == ("problem", f"There is no '{tmp_path}/shm'")


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def version_but(name: str) -> str:
        if name in names:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(machine, "version", version_but)


def test_a_missing_wheel_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "nvidia-pytriton")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.35"))
    hint = "Install it with: pip install 'fundus-triton[embedded]'"
    assert machine.server_parts() == Finding("problem", "The embedded server lacks nvidia-pytriton.", hint)


@pytest.mark.parametrize("libc", [("glibc", "2.34"), ("", ""), ("musl", "1.2.5")])
def test_a_platform_without_wheel_is_not_told_to_install_it(
    monkeypatch: pytest.MonkeyPatch, libc: tuple[str, str]
) -> None:
    without(monkeypatch, "nvidia-pytriton", "onnxruntime")
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    found = machine.server_parts()
    assert found.what == "The embedded server lacks nvidia-pytriton, onnxruntime."
    assert found.next_step.startswith("It needs Linux with glibc 2.35 or newer. Use a server elsewhere")


def test_extras_are_listed_when_nothing_of_them_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "tensorrt", "onnxruntime")
    requirements = [
        "click>=8.1",
        "onnxruntime>=1.18; extra == 'embedded'",
        "tensorrt>=10; extra == 'tensorrt'",
        'click-plugins>=1 ; python_version > "3" and extra == "tensorrt-rtx"',
    ]
    monkeypatch.setattr(machine, "requires", lambda _: requirements)
    assert machine.missing("embedded") == ["onnxruntime"]
    assert machine.missing("tensorrt") == ["tensorrt"]
    assert machine.missing("tensorrt-rtx") == ["click-plugins"]
    assert machine.missing("none") == []


needs_wheel = pytest.mark.skipif(
    bool(machine.missing("embedded")), reason="needs the extra `embedded`: the wheel's tritonserver"
)


@needs_wheel
def test_a_complete_server_is_well() -> None:
    assert machine.server_parts().level == "ok"


@needs_wheel
def test_a_python_without_stub_or_library_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "_PYTHON", "3.99")
    assert "needs libpython3.99.so.1.0" in machine.server_parts().what
    monkeypatch.setattr(wheel, "_libpython_folders", list)
    assert "cannot run models with Python 3.99" in machine.server_parts().what


@needs_wheel
def test_a_server_on_a_file_system_without_execution_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.X_OK)  # as access(2) says of noexec
    found = machine.server_parts()
    assert found.what.endswith("/bin/tritonserver' may not be executed.")
    assert "noexec" in found.next_step


def test_a_temporary_folder_without_room_is_a_problem() -> None:
    assert machine.temporary_folder().level == "ok"
    with files_up_to(1000):
        found = machine.temporary_folder()
    assert (found.level, found.what) == ("problem", "Temporary files cannot be written: File too large.")


def test_no_temporary_folder_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/none")
    found = machine.temporary_folder()
    assert (found.level, found.what) == (
        "problem",
        "Temporary files cannot be written: No such file or directory.",
    )
    assert "TMPDIR" in found.next_step


def test_the_outputs_place_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "scores.csv.journal").write_bytes(b"of an earlier run")
    assert machine.output_place(tmp_path / "scores.csv").level == "ok"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"of an earlier run"]


def test_a_full_disk_at_the_outputs_place_is_a_problem(tmp_path: Path) -> None:
    with files_up_to(1000):
        found = machine.output_place(tmp_path / "scores.csv")
    assert found.level == "problem"
    assert "cannot be written: disk I/O error." in found.what or "disk is full" in found.what
    assert found.next_step.startswith("Choose an --output that you may write to")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none/scores.csv", "give a file name in a folder that exists."),
        ("scores.xlsx", "is no name of a table."),
    ],
)
def test_an_output_that_score_would_refuse(tmp_path: Path, name: str, said: str) -> None:
    found = machine.output_place(tmp_path / name)
    assert found.level == "problem"
    assert said in found.what


def test_little_room_for_the_table_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(0, 0, 59 * MB))
    found = machine.output_place(tmp_path / "scores.csv")
    assert found.level == "warning"
    assert found.what == f"59.0 MB are free in '{tmp_path}'; table and journal take 600 bytes a file."


def test_the_software_says_what_a_report_needs() -> None:
    found = machine.software()
    assert found.level == "ok"
    for wanted in (
        platform.python_version(),
        platform.machine(),
        f"fundus-triton {version('fundus-triton')}",
        "grpcio",
    ):
        assert wanted in found.what
