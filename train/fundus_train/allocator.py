"""Keep memory that PyTorch frees on the CPU, instead of giving it back to the system after every layer."""

import ctypes
import ctypes.util
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
KEPT_BYTES = 2**30


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks; elsewhere do nothing.

    Otherwise each activation of over 32 MB is mapped, zeroed by the kernel and unmapped again: a third of the
    time of a training step of EfficientNet-Lite0 at 256 px, batch 16.
    """
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(ctypes.util.find_library("c"))
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
