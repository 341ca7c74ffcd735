import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fundus_export.toolchain import Gpu, Toolchain, find_gpu, this_toolchain

DRIVER = """
#include <string.h>
static int started;
int cuInit(unsigned flags) { started = @FAILS@ == 0; return @FAILS@; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 7; return !started; }
int cuDeviceGetName(char *name, int length, int device) {
  strncpy(name, device == 7 ? "NVIDIA H100 80GB HBM3" : "another", length);
  return !started;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : -1;
  return !started || device != 7;
}
"""


def found_with(folder: Path, cu_init: int) -> str:
    """Return what `find_gpu` finds where a driver of this kind is installed."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler for a driver that is none")
    (folder / "cuda.c").write_text(DRIVER.replace("@FAILS@", str(cu_init)))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "libcuda.so.1", "cuda.c"], cwd=folder, check=True)
    code = "from fundus_export.toolchain import find_gpu; print(find_gpu())"
    environment = {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": ":".join(sys.path)}
    line = [sys.executable, "-c", code]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_the_gpu_is_what_the_driver_says(tmp_path: Path) -> None:
    assert found_with(tmp_path, 0) == "NVIDIA H100 80GB HBM3 (9.0)"


def test_a_driver_without_a_gpu_is_no_gpu(tmp_path: Path) -> None:
    assert found_with(tmp_path, 100) == "None"  # CUDA_ERROR_NO_DEVICE


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", no_library)
    assert find_gpu() is None


def test_a_toolchain_is_named_by_package_and_version() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx extra")
    here = this_toolchain("tensorrt_rtx")
    assert (here.backend, here.version, here.gpu) == ("tensorrt_rtx", trt.__version__, find_gpu())
    assert here.tensorrt == f"TensorRT-RTX {trt.__version__}"
    assert Toolchain("tensorrt", "11.2", Gpu("L4", "8.9")).tensorrt == "TensorRT 11.2"
