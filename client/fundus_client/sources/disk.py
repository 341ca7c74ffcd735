"""Files, folders and patterns of this computer's file systems."""

import os
from collections.abc import Iterable, Iterator, Sequence
from glob import has_magic
from pathlib import Path

from fundus_client.sources.pattern import Pattern, parse_pattern
from fundus_client.sources.ref import Ref, merged
from fundus_client.sources.wanted import by_content
from fundus_core.errors import UsageError
from fundus_core.files import ImageRef, common_folder, walk_images


class Disk:
    """A `Place` of listed paths, relative to the working directory."""

    def key(self, name: str) -> str:
        """Return the absolute path; symbolic links stay."""
        return os.path.abspath(name)

    def refs(self, named: Iterable[tuple[str, str]]) -> Iterator[Ref]:
        """Yield files without looking at them."""
        return (ImageRef(image_id, Path(path)) for image_id, path in named)


class DiskSource:
    """Everything below files, folders and patterns; a pattern is what has wildcards and is no file's name.

    Ids are as those of `find_images`: a pattern counts as the folder before its first wildcard.

    Raises:
        UsageError: a path does not exist, or a pattern matches nothing.
    """

    n_repeated = 0

    def __init__(self, inputs: Sequence[str]) -> None:
        wild = [each for each in inputs if has_magic(each) and not os.path.lexists(each)]
        self._patterns = [parse_pattern(os.path.abspath(each)) for each in wild]
        self._paths = [_existing(each) for each in set(inputs).difference(wild)]
        folders = [_existing(pattern.folder or "/") for pattern in self._patterns]
        self._base = common_folder([*self._paths, *folders])
        for pattern in self._patterns:
            if next(self._matching(pattern), None) is None:
                whole = "/".join((pattern.folder, *pattern.parts))
                raise UsageError(f"Nothing matches '{whole}'. Check the pattern.")

    def __iter__(self) -> Iterator[Ref]:
        """Walk everything once."""

        def wanted(image_id: str, is_folder: bool) -> bool:
            return is_folder or by_content(self._base, image_id)

        return merged([walk_images(self._paths, self._base, wanted), *map(self._matching, self._patterns)])

    def _matching(self, pattern: Pattern) -> Iterator[ImageRef]:
        folder = Path(pattern.folder or "/")
        n_above = len(folder.relative_to(self._base).parts)

        def wanted(image_id: str, is_folder: bool) -> bool:
            below = "/".join(image_id.split("/")[n_above:])
            return pattern.wants(below, is_folder, lambda below: by_content(folder, below))

        return walk_images([folder], self._base, wanted)


def _existing(path: str) -> Path:
    if not os.path.lexists(path):
        raise UsageError(f"There is no file or folder '{path}'. Check the path.")
    return Path(path)
