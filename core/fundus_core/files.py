"""Find image files and read their encoded bytes. Unreadable is an `ImageError`, never a skip."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fundus_core.errors import ImageError, UsageError
from fundus_core.images import ImageLimits

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp"})


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One file to score. `image_id` is its relative posix path, so no two files share one."""

    image_id: str
    path: Path


def find_images(paths: Sequence[Path]) -> Iterator[ImageRef]:
    """Yield every image below `paths`, streamed, sorted by `image_id`.

    A folder is walked recursively and its files are taken by suffix (`IMAGE_SUFFIXES`, any case); a file
    that is named itself is always taken. Ids are relative to the one folder given, or to the common parent
    of several paths. A path inside another given path is not walked twice. A folder that cannot be listed
    is yielded itself (id ending in "/"), so that it becomes a row with a reason.

    Raises:
        UsageError: a path does not exist.
    """
    roots = _outermost(paths)
    base = _base(roots)
    for root in sorted(roots, key=lambda root: _sort_name(root.relative_to(base).as_posix(), root.is_dir())):
        image_id = "" if root == base else root.relative_to(base).as_posix()
        yield from _walk(root, image_id, frozenset()) if root.is_dir() else (ImageRef(image_id, root),)


def _outermost(paths: Sequence[Path]) -> list[Path]:
    roots = {Path(os.path.abspath(path)) for path in paths}
    for root in roots:
        if not os.path.lexists(root):
            raise UsageError(f"There is no file or folder '{root}'. Check the path.")
    return [root for root in roots if roots.isdisjoint(root.parents)]


def _base(roots: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([root if root.is_dir() else root.parent for root in roots]))


def _walk(folder: Path, folder_id: str, ancestors: frozenset[tuple[int, int]]) -> Iterator[ImageRef]:
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: _sort_name(entry.name, _is_folder(entry)))
    except OSError:
        yield ImageRef(f"{folder_id}/", folder)
        return
    inode = (status.st_dev, status.st_ino)
    if inode in ancestors:  # a symbolic link back to a parent folder
        return
    for entry in entries:
        image_id = f"{folder_id}/{entry.name}" if folder_id else entry.name
        if _is_folder(entry):
            yield from _walk(Path(entry.path), image_id, ancestors | {inode})
        elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            yield ImageRef(image_id, Path(entry.path))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that nobody may enter; reading it gives the reason
        return False


def _sort_name(name: str, is_folder: bool) -> str:
    # With "/" behind a folder's name, walking in name order is the order of the whole relative paths.
    return f"{name}/" if is_folder else name


def read_encoded(path: Path, limits: ImageLimits) -> bytes:
    """Return the encoded bytes of one file.

    Raises:
        ImageError: `vanished`, `unreadable`, `not_a_file`, `empty` or `too_large`.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("unreadable", "This folder could not be listed; check its permissions.")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not_a_file", "This is a pipe, socket or device, not a file.")
        limits.check_bytes(status.st_size)
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError("vanished", "The file was listed but is gone.") from None
    except OSError as error:
        raise ImageError("unreadable", f"The file system answered: {error.strerror}.") from None
    limits.check_bytes(len(data))
    return data
