"""What the benchmarks of speed share: the machine, ratios of repeats, command lines, where figures go."""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CORES = len(os.sched_getaffinity(0))
_RESULTS = Path(__file__).parent / "results"


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a module's docstring as it is written."""
    kept = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=kept)


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of each repeat's ratio: what else the machine did then slowed both."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def write_results(name: str, content: Mapping[str, Any], **details: object) -> None:
    """Write figures to benchmarks/results/NAME.json, and on what machine they were taken; `details` of it."""
    machine = {"cores": CORES, "architecture": platform.machine(), **details}
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / f"{name}.json").write_text(json.dumps({**content, "machine": machine}, indent=2) + "\n")
