"""What `fundus-client doctor` finds: a judgement, and what to do where it is not good."""

from dataclasses import dataclass
from typing import Literal

from fundus_core.errors import FundusError

_CORRECT = "Correct that, and run `fundus-client doctor` again."
Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What one check found; `next_step` says what to do, and is empty where nothing is to be done."""

    level: Level
    what: str
    next_step: str = ""

    def __post_init__(self) -> None:
        if bool(self.next_step) != (self.level != "ok"):
            raise ValueError(f"{self.what!r}: {self.level} with the next step {self.next_step!r}")


def explained(error: FundusError) -> Finding:
    """Return the problem behind an error: its first sentence says what, the others what to do."""
    what, _, next_step = str(error).partition(". ")
    return Finding("problem", f"{what.rstrip('.')}.", next_step or _CORRECT)


def unexpected(error: Exception) -> Finding:
    """Return the problem behind an error that no check foresees."""
    return Finding("problem", f"A check failed ({type(error).__name__}: {error}).", "Please report this.")
