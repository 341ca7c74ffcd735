"""What a TensorRT plan is bound to: the package that built it, its version, and the GPU."""

import ctypes
from dataclasses import dataclass

from fundus_export.engine import Backend, load_tensorrt

NAMES: dict[Backend, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # of CUdevice_attribute in cuda.h


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver describes it; `compute_capability` is like "9.0"."""

    name: str
    compute_capability: str

    def __str__(self) -> str:
        return f"{self.name} ({self.compute_capability})"


@dataclass(frozen=True)
class Toolchain:
    """A plan runs with no other version of TensorRT than this, and on no other GPU."""

    backend: Backend
    version: str
    gpu: Gpu | None

    @property
    def tensorrt(self) -> str:
        """Package and version, for people."""
        return f"{NAMES[self.backend]} {self.version}"


def this_toolchain(backend: Backend) -> Toolchain:
    """Return what would build here.

    Raises:
        MissingExtraError: the package is not installed.
    """
    return Toolchain(backend, str(load_tensorrt(backend).__version__), find_gpu())


def find_gpu() -> Gpu | None:
    """Return the first GPU that CUDA sees, which is where TensorRT builds; None where there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:  # no driver
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    failures = (
        cuda.cuInit(0),
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDeviceGetName(name, len(name), device),
        cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device),
    )
    return None if any(failures) else Gpu(name.value.decode(), f"{major.value}.{minor.value}")
