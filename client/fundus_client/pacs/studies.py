"""Which studies have arrived as a whole: those to whose folders nothing was added for a while."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_EMPTY_S = 3600.0  # a folder that is empty for so long is not one that an object is being put into


@dataclass
class Studies:
    """The folders of studies in a spool. Nobody says when a study ends; silence does.

    Args:
        folder: the spool.
        quiet_s: how long nothing must have been added to a study.
    """

    folder: Path
    quiet_s: float
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)  # time of change, since when it is so

    def complete(self) -> list[Path]:
        """Return the folders of the studies that are complete by now, the longest quiet one first.

        Raises:
            OSError: the spool cannot be listed.
        """
        now, before, self._seen = self.clock(), self._seen, {}
        for entry in os.scandir(self.folder):
            if not entry.name.startswith(".") and entry.is_dir():
                changed = entry.stat().st_mtime_ns
                known = before.get(entry.name)
                self._seen[entry.name] = known if known and known[0] == changed else (changed, now)
        quiet = [(since, name) for name, (_, since) in self._seen.items() if now - since >= self.quiet_s]
        folders = [self.folder / name for _, name in sorted(quiet)]
        return [folder for folder in folders if any(folder.iterdir())]

    def tidy(self) -> None:
        """Remove the folders that stay empty: their studies have been taken over."""
        for entry in os.scandir(self.folder):
            if not entry.name.startswith(".") and time.time() - entry.stat().st_mtime > _EMPTY_S:
                with suppress(OSError):  # not empty
                    Path(entry.path).rmdir()
