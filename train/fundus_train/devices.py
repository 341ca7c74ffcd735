"""The devices that a command computes on, by Lightning Fabric, or a sentence why not."""

from typing import Any

import lightning as lit

from fundus_core.errors import UsageError
from fundus_train.allocator import keep_freed_memory


def launched(accelerator: str, devices: int, precision: Any = "32-true") -> lit.Fabric:
    """Return a launched Fabric. Of several devices, each continues in a process of its own from here.

    Raises:
        UsageError: there are no such devices, or they don't compute in this precision.
    """
    keep_freed_memory()
    try:
        fabric = lit.Fabric(accelerator=accelerator, devices=devices, precision=precision)
    except Exception as error:  # Lightning raises what it likes
        wanted = f"--accelerator {accelerator} --devices {devices}"
        raise UsageError(f"{wanted} is not to be had here ({error}). Choose others.") from None
    fabric.launch()
    return fabric
