"""How many images one server gets at once: more while it answers promptly, fewer where it says "too much".

The rule is TCP's: slow start, then additive increase and multiplicative decrease (Jacobson 1988,
https://doi.org/10.1145/52325.52356). Each sign of trouble halves the window: a full queue, or answers that
take so long that the deadline comes near.
"""

import time
from dataclasses import dataclass

START = 16.0
_NEAR_DEADLINE = 0.25
_CALM_S = 1.0  # between two cuts: all requests that were under way tell of the same trouble


@dataclass
class Window:
    """The number of images in flight to one server, from 1 to `most`."""

    most: int
    deadline_s: float
    size: float = START
    _slow_start: bool = True
    _cut_at_s: float = 0.0

    def __post_init__(self) -> None:
        self.size = min(self.size, self.most)

    def answered(self, latency_s: float) -> None:
        """Learn from an answer that took `latency_s`."""
        if latency_s > self.deadline_s * _NEAR_DEADLINE:
            self.cut()
        else:
            self.size = min(self.most, self.size + (1 if self._slow_start else 1 / self.size))

    def cut(self) -> None:
        """Halve the window, once for all requests that tell of the same trouble."""
        now_s = time.monotonic()
        self._slow_start = False
        if now_s > self._cut_at_s + _CALM_S:
            self._cut_at_s, self.size = now_s, max(1.0, self.size / 2)
