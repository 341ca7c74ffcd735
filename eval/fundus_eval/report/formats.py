"""Numbers and foreign texts as the report writes them."""

import math
import re

from fundus_core.sheet import escaped
from fundus_eval.intervals import Interval

MINUS, MISSING = "\N{MINUS SIGN}", "\N{EN DASH}"
_NO_INTERVAL = "no interval"
_NARROW = "\u202f"  # a narrow space at which no line breaks
# what neither XML nor HTML can hold, not even escaped, and what turns the direction of the text that follows
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def printable(text: str) -> str:
    r"""Return `text` without what no document can hold: U+FFFD stands for it, `\udcXX` for surrogates."""
    return _UNPRINTABLE.sub("\ufffd", escaped(text))


def shortened(text: str, most: int) -> str:
    """Return `text` printable on one line, with an ellipsis where it is longer than `most` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with `digits` decimals; a dash where there is none."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return f"{MINUS if value < 0 else ''}∞"
    return f"{value:z.{digits}f}".replace("-", MINUS)


def measured(value: float) -> str:
    """Write the value of a measure of any size."""
    return number(value, 0 if abs(value) >= 100 else 3)


def count(value: int) -> str:
    """Write a whole number, its thousands apart."""
    return f"{value:,}".replace(",", _NARROW)


def _is_point(interval: Interval) -> bool:
    """Whether all resamples agreed, but for rounding: that is no certainty."""
    return interval.high - interval.low < 1e-9


def limits(interval: Interval, digits: int = 3) -> str:
    """Write the confidence limits: 0.926 to 0.961."""
    if _is_point(interval):
        return _NO_INTERVAL
    return f"{number(interval.low, digits)} to {number(interval.high, digits)}"


def estimate(interval: Interval | None, digits: int = 3) -> str:
    """Write an estimate with its limits: 0.943 (0.926 to 0.961)."""
    return MISSING if interval is None else f"{number(interval.value, digits)} ({limits(interval, digits)})"


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share (0-1) in per cent."""
    return MISSING if value is None or math.isnan(value) else f"{number(100 * value, digits)}{_NARROW}%"


def short_percent(value: float) -> str:
    """Write a share (0-1) that somebody chose in per cent, as many digits as it has: 0.01 %."""
    return f"{100 * value:.6g}{_NARROW}%"


def share_limits(interval: Interval) -> str:
    """Write the confidence limits of a share in per cent: 76.7 to 90.7 %."""
    if _is_point(interval):
        return _NO_INTERVAL
    return f"{number(100 * interval.low, 1)} to {percent(interval.high)}"


def share(interval: Interval | None) -> str:
    """Write a share (0-1) with its limits in per cent: 85.0 % (76.7 to 90.7 %)."""
    return MISSING if interval is None else f"{percent(interval.value)} ({share_limits(interval)})"
