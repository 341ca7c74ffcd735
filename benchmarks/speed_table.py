"""The table of benchmarks/speed.py: medians, spreads, ratios, and what became of the goals."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from machine import median_ratio
from rich.console import Console
from rich.table import Table
from speed_client import FIRST_SCORE, PERCENTILES, SCORE
from speed_ensembles import FP32, INT8, SIDES_PX, TENSORS, side_name
from speed_gpu import GPU_PEAK
from speed_limits import PEAK
from speed_preprocess import RESIZE, SEE
from speed_runtimes import FROM_FILES, bare_name
from speed_torch import EAGER

RANGE = "least - largest"
LARGE = side_name(SIDES_PX[-1])
Speeds = dict[str, dict[str, list[float]]]  # images/s of each repeat, by the row's name and the photographs
BASES = ("limit", "no server", "eager", "peak")


def limit(speeds: Speeds, name: str) -> str:
    """Return the fastest arrangement of bare onnxruntime in the precision of a row."""
    start = bare_name(INT8 if INT8 in name else FP32)
    bare = [row for row in speeds if row.startswith(start)]
    return max(bare, key=lambda row: statistics.median(speeds[row][TENSORS]))


def peak(name: str) -> str:
    """Return the row of what arithmetic in a row's precision allows; none for other precisions."""
    if "fp16" in name:
        return GPU_PEAK
    return "" if INT8 in name or "bf16" in name else PEAK


def ratios(speeds: Speeds, name: str, photographs: str) -> dict[str, float]:
    """Return what a row reaches of the limit of its precision, and of rows with the same photographs."""
    values = speeds[name][photographs]
    bases = {
        "limit": speeds[limit(speeds, name)][TENSORS],
        "no server": speeds[FROM_FILES].get(photographs),
        "eager": speeds[EAGER].get(photographs),
        "peak": speeds.get(peak(name), {}).get(TENSORS),
    }
    return {base: median_ratio(values, others) for base, others in bases.items() if others}


def all_ratios(speeds: Speeds) -> dict[str, dict[str, dict[str, float]]]:
    """Return the ratios of all rows, by name and photographs."""
    return {name: {each: ratios(speeds, name, each) for each in row} for name, row in speeds.items()}


def goals(found: Mapping[str, Any]) -> Iterator[tuple[str, float, bool]]:
    """Yield what was to be reached, what was, and whether that is enough."""
    for name, part in found["ensembles"].items():
        for precision, base, least in ((FP32, "limit", 0.97), (FP32, "eager", 4), (INT8, "eager", 6)):
            for photographs, reached in part["median_ratios"][f"{SCORE}, {precision}"].items():
                wanted = f"{name}, {photographs}: {precision} at least {least:g} of {base}"
                yield wanted, reached[base], reached[base] >= least
        large = part["preprocessing"][LARGE]
        faster = median_ratio(large["images_per_s"][SEE], large["images_per_s"][RESIZE])
        yield f"{name}, {LARGE}: preprocessing at least 4 of full decode and resize", faster, faster >= 4
        for photographs, each in part["preprocessing"].items():
            for measure, most in (("mean_grey_levels", 1), ("largest_dp", 5e-3)):
                if measure in each:
                    wanted = f"{name}, {photographs}: {measure} at most {most:g}"
                    yield wanted, each[measure], each[measure] <= most
    start_s = statistics.median(found["start_s"][FIRST_SCORE])
    yield f"{FIRST_SCORE}: under 4 s", start_s, start_s < 4


def show(found: Mapping[str, Any]) -> None:
    """Print all tables, what was skipped and what became of the goals."""
    for name, part in found["ensembles"].items():
        speeds = part["images_per_s"]
        header = (f"{name}, {part['size_px']} px", "photographs", "images/s", RANGE)
        tabulate((*header, *(f"of {base}" for base in BASES)), list(_speed_lines(speeds)))
        print(*(f"limit, {each}: {limit(speeds, each)}" for each in (FP32, INT8)), "", sep="\n")
    for name, part in found["ensembles"].items():
        columns = (f"{name}, one thread", "photographs", "images/s", RANGE, "of decode and resize")
        tabulate(columns, list(_preprocess_lines(part["preprocessing"])))
    lines = [
        (f"{each['share']:.0%} of throughput", f"{each['rate']:.1f}", *map(str, each["all"].values()))
        for each in found["latency_ms"]
    ]
    tabulate(("latency, ms, at", "images/s", *(f"p{each}" for each in PERCENTILES)), lines)
    tabulate(("starts", "s", RANGE), [(name, *middle(each)) for name, each in found["start_s"].items()])
    print(*(f"skipped: {line}" for line in found["skipped"]), sep="\n")
    for goal in found["goals"]:
        print(f"{'met   ' if goal['met'] else 'missed'} {goal['goal']}; reached: {goal['reached']:.3g}")


def _speed_lines(speeds: Speeds) -> Iterator[tuple[str, ...]]:
    for name, row in speeds.items():
        for photographs, values in row.items():
            reached = ratios(speeds, name, photographs)
            shares = (f"{reached[base]:.2f}" if base in reached else "" for base in BASES)
            yield name, photographs, *middle(values), *shares


def _preprocess_lines(by_size: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for photographs, each in by_size.items():
        speeds = each["images_per_s"]
        for name, values in speeds.items():
            yield name, photographs, *middle(values), f"{median_ratio(values, speeds[RESIZE]):.2f}"


def middle(values: Sequence[float]) -> tuple[str, str]:
    """Return the median, and the least and the largest."""
    return f"{statistics.median(values):.3g}", f"{min(values):.3g} - {max(values):.3g}"


def tabulate(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a table: drawn on a terminal, plain columns elsewhere."""
    console = Console(highlight=False)
    if console.is_terminal:
        table = Table(header[0], *header[1:])
        for line in lines:
            table.add_row(*line)
        console.print(table)
        return
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    for line in (header, *lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print()
