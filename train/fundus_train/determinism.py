"""`deterministic = true`: the same weights each time, on a GPU as well, or a sentence why not."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fundus_core.errors import RecipeError

CUBLAS, WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let PyTorch use deterministic operations only, while inside, if `wanted`.

    Raises:
        RecipeError: the network needs an operation that has no deterministic form on this device.
    """
    if not wanted:
        yield
        return
    before = (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)
    workspace = os.environ.get(CUBLAS)
    os.environ.setdefault(CUBLAS, WORKSPACE)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        hint = "Set deterministic = false, or choose another architecture."
        raise RecipeError(
            f"This network cannot be trained deterministically here ({error}). {hint}"
        ) from None
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        if workspace is None:
            del os.environ[CUBLAS]
