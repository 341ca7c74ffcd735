"""Patterns such as `images/**/*.jpg`, matched in a walk that enters only folders that may hold a match."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import has_magic

from fundus_client.sources.wanted import by_name


@dataclass(frozen=True)
class Pattern:
    """What to take below one folder: `parts` may hold `*`, `?` and `[...]`; `**` is any number of folders."""

    folder: str
    parts: tuple[str, ...]

    def wants(
        self,
        below: str,
        is_folder: bool,
        is_input: Callable[[str], bool] = lambda below: by_name(below, False),
    ) -> bool:
        """Whether to take a file or to enter a folder; `below` is its path below `folder`.

        What matches counts as named: a file of any kind, and a folder with everything in it that `is_input`.
        """
        parts = below.split("/")
        if is_folder:
            return _may_lead(parts, self.parts)
        inside = any(_matches(parts[:n], self.parts) for n in range(len(parts)))
        return _matches(parts, self.parts) or (inside and is_input(below))


def parse_pattern(path: str) -> Pattern:
    """Split an absolute path before its first part with a wildcard."""
    parts = path.split("/")
    n_fixed = next(n for n, part in enumerate(parts) if has_magic(part))
    return Pattern("/".join(parts[:n_fixed]), tuple(parts[n_fixed:]))


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[n:], pattern[1:]) for n in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _may_lead(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a folder may hold a match, or lies in one."""
    if not parts or not pattern or pattern[0] == "**":
        return True
    return fnmatchcase(parts[0], pattern[0]) and _may_lead(parts[1:], pattern[1:])
