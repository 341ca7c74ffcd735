"""How a server runs an ensemble: batches, queues, instances, threads. Nothing here changes a score."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fundus_core.errors import UsageError
from fundus_core.schema import build, check_least

SERVING = "serving.json"
MOST_PREPROCESSING = 16  # processes, unless more are asked for: each takes 90 MB, and shared memory


@dataclass(frozen=True)
class Serving:
    """What `fundus-export configs` renders into the Triton configs of a repository.

    Args:
        max_batch: images that a fold takes at once. A fold's views multiply it: resnest50d with 4 views at
            512 px needs 7 GB of scratch for 32 images, so 8.
        preferred_batches: sizes at which a batch leaves at once.
        queue_delay_us: how long a smaller batch may wait for more images.
        max_queued: requests that may wait; the next one is told to try again.
        queue_timeout_s: how long a request may wait before it is refused; 0: for ever.
        max_inflight: decoded images that may wait for a slow fold, so that memory stays bounded; 0: no bound.
        fold_instances: copies of each fold on every GPU.
        preprocess_instances: processes that decode and preprocess, each on one core. 0: by the machine
            (`fitted`), and 4 where nothing is known of it.
        cores: CPU cores that the folds share, so that they don't fight for them: a fold gets an instance of
            one thread for each core of its share, and no batches. 0: for GPUs; on a CPU each fold would
            then take all cores.
    """

    max_batch: int = 8
    preferred_batches: tuple[int, ...] = (4, 8)
    queue_delay_us: int = 2000
    max_queued: int = 512
    queue_timeout_s: int = 120
    max_inflight: int = 256
    fold_instances: int = 1
    preprocess_instances: int = 0
    cores: int = 0

    def __post_init__(self) -> None:
        check_least(self, ("max_batch", "max_queued", "fold_instances"), 1, UsageError)
        others = ("queue_delay_us", "queue_timeout_s", "max_inflight", "preprocess_instances", "cores")
        check_least(self, others, 0, UsageError)
        if not all(1 <= size <= self.max_batch for size in self.preferred_batches):
            sizes = list(self.preferred_batches)
            raise UsageError(f"preferred_batches are {sizes}; choose sizes of 1 to {self.max_batch}.")


def read_serving(repository: Path) -> Serving:
    """Return the settings of a repository; the defaults where it has none of its own.

    Raises:
        UsageError: serving.json is not JSON, or has an unknown key or an impossible value.
    """
    try:
        data = json.loads((repository / SERVING).read_text())
    except FileNotFoundError:
        return Serving()
    except (OSError, ValueError) as error:
        hint = "Correct or remove it."
        raise UsageError(f"{SERVING} of '{repository}' cannot be read ({error}). {hint}") from None
    return build(Serving, data, UsageError, SERVING)


def changed(serving: Serving, values: dict[str, Any]) -> Serving:
    """Return the settings with some values replaced.

    Raises:
        UsageError: an unknown key or an impossible value.
    """
    return build(Serving, asdict(serving) | values, UsageError, "setting")


def fitted(serving: Serving, cores: int, on_gpu: bool) -> Serving:
    """Return the settings with those that are left to the machine: it has `cores`, and perhaps a GPU."""
    return replace(
        serving,
        preprocess_instances=serving.preprocess_instances or min(cores, MOST_PREPROCESSING),
        cores=serving.cores or (0 if on_gpu else cores),
    )


def serving_json(serving: Serving) -> str:
    """Return the content of serving.json."""
    return json.dumps(asdict(serving), indent=2) + "\n"
