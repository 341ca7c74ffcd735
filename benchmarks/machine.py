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
RESULTS = Path(__file__).parent / "results"
_INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "i8mm")


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a module's docstring as it is written."""
    kept = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=kept)


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of each repeat's ratio: what else the machine did then slowed both."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def write_results(name: str, content: Mapping[str, Any], **details: object) -> None:
    """Write figures to benchmarks/results/NAME.json, and on what machine they were taken; `details` of it."""
    machine = {"cores": CORES, **_computer(), **details}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**content, "machine": machine}, indent=2) + "\n")


def _computer() -> dict[str, object]:
    """Return the CPU, those of its instruction sets that networks profit from, and the memory."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = said.get("flags", said.get("Features", "")).split()
    return {
        "architecture": platform.machine(),
        "cpu": said.get("model name", "unknown"),
        "instructions": [name for name in _INSTRUCTIONS if name in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
    }
