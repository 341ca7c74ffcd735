"""Find image files, read them, and write files whole. Unreadable is an `ImageError`, never a skip."""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from fundus_core.errors import ImageError, UsageError
from fundus_core.images import ImageLimits

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp"})
STAMP_BYTES = 16

Wanted = Callable[[str, bool], bool]  # (image_id, whether it is a folder) -> whether to take or enter it


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One file to score. `image_id` is its relative posix path, so no two files share one."""

    image_id: str
    path: Path

    @property
    def acquisition(self) -> None:
        """Nothing is known of where and how it was taken: it is not opened."""

    def size_bytes(self) -> int:
        """Return how many bytes the file has, 0 where that cannot be told."""
        status = self._status()
        return status.st_size if status else 0

    def stamp(self) -> bytes:
        """Return 16 bytes that stay the same while the file surely does, b"" where that cannot be told.

        Ask before reading: a change in between then shows the next time.
        """
        status = self._status()
        if status is None:
            return b""
        facts = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return stamp_of(os.path.abspath(self.path), *facts)

    def head(self, n_bytes: int) -> bytes:
        """Return the first bytes of the file, b"" where it cannot be read."""
        try:
            if self._status() is None:  # a pipe would wait for ever
                return b""
            with self.path.open("rb") as file:
                return file.read(n_bytes)
        except OSError:
            return b""

    def read(self, limits: ImageLimits) -> bytes:
        """Return the encoded bytes, as `read_encoded`."""
        return read_encoded(self.path, limits)

    def _status(self) -> os.stat_result | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status if stat.S_ISREG(status.st_mode) else None


def stamp_of(*facts: object) -> bytes:
    """Return 16 bytes that stand for `facts`."""
    return blake2b(repr(facts).encode(), digest_size=STAMP_BYTES).digest()


def by_suffix(image_id: str, is_folder: bool) -> bool:
    """Whether a search enters a folder (always), or takes a file: by the suffix of its name."""
    return is_folder or Path(image_id).suffix.lower() in IMAGE_SUFFIXES


def find_images(paths: Sequence[Path]) -> Iterator[ImageRef]:
    """Yield every image below `paths`, streamed, sorted by `image_id`.

    A folder is walked recursively and its files are taken by suffix (`IMAGE_SUFFIXES`, any case); a file
    that is named itself is always taken. Ids are relative to the one folder given, or to the common parent
    of several paths. A path inside another given path is not walked twice. A folder that cannot be listed
    is yielded itself (id ending in "/"), so that it becomes a row with a reason.

    Raises:
        UsageError: a path does not exist.
    """
    for path in paths:
        if not os.path.lexists(path):
            raise UsageError(f"There is no file or folder '{os.path.abspath(path)}'. Check the path.")
    return walk_images(paths, common_folder(paths))


def common_folder(paths: Sequence[Path]) -> Path:
    """Return the absolute folder that the ids of everything below `paths` are relative to."""
    roots = [Path(os.path.abspath(path)) for path in paths]
    return Path(os.path.commonpath([root if root.is_dir() else root.parent for root in roots]))


def walk_images(paths: Sequence[Path], base: Path, wanted: Wanted = by_suffix) -> Iterator[ImageRef]:
    """Yield as `find_images`, with ids relative to `base`, what is `wanted` below the folders of `paths`."""
    roots = {Path(os.path.abspath(path)) for path in paths}
    outermost = [root for root in roots if roots.isdisjoint(root.parents)]
    for root in sorted(
        outermost, key=lambda root: sort_name(root.relative_to(base).as_posix(), root.is_dir())
    ):
        image_id = "" if root == base else root.relative_to(base).as_posix()
        yield from (
            _walk(root, image_id, frozenset(), wanted) if root.is_dir() else (ImageRef(image_id, root),)
        )


def _walk(
    folder: Path, folder_id: str, ancestors: frozenset[tuple[int, int]], wanted: Wanted
) -> Iterator[ImageRef]:
    prefix = f"{folder_id}/" if folder_id else ""
    try:
        status = folder.stat()
        # Names alone, "/" behind a folder's: entries of 100,000 files would take 30 MB.
        names = sorted(sort_name(entry.name, _is_folder(entry)) for entry in os.scandir(folder))
    except OSError:
        yield ImageRef(f"{folder_id}/", folder)
        return
    inode = (status.st_dev, status.st_ino)
    if inode in ancestors:  # a symbolic link back to a parent folder
        return
    for name in names:
        path, image_id, is_folder = folder / name, prefix + name.removesuffix("/"), name.endswith("/")
        if not wanted(image_id, is_folder):
            continue
        if is_folder:
            yield from _walk(path, image_id, ancestors | {inode}, wanted)
        else:
            yield ImageRef(image_id, path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that nobody may enter; reading it gives the reason
        return False


def sort_name(name: str, is_folder: bool) -> str:
    """Return what to sort a folder's entries by, so that the walk is in the order of the whole paths."""
    return f"{name}/" if is_folder else name


def read_encoded(path: Path, limits: ImageLimits) -> bytes:
    """Return the encoded bytes of one file.

    Raises:
        ImageError: `vanished`, `unreadable`, `not_a_file`, `empty` or `too_large`.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            os.scandir(path).close()  # raises where the folder could not be listed
            raise ImageError("not_a_file", "This is a folder. Give it as an argument to score what is in it.")
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


def run_json_path(table: Path) -> Path:
    """Return where a run says how it made `table`: run.json for scores.csv, TABLE.run.json for others."""
    return table.with_name("run.json" if table.name == "scores.csv" else f"{table.name}.run.json")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; `path` appears with all of it at the end, safe on the disk, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
        flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file or folder written to the disk by now; `OSError` where that fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that knows no such thing
            raise
    finally:
        os.close(descriptor)
