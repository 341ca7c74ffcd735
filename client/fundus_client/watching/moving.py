"""A file from one folder to another, maybe on another file system, never over a file that is there."""

import ctypes
import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from fundus_core.files import flush as flush
from fundus_core.provenance import sha256_of

PARTIAL = ".fundus-watch.partial"
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def make_folders(folder: Path, name: str) -> None:
    """Make the sub-folders of `name` in `folder`; not `folder` itself, which may be a drive that went away.

    Raises:
        OSError: they cannot be made.
    """
    for parent in reversed(Path(name).parents[:-1]):
        (folder / parent).mkdir(exist_ok=True)


def move_new(source: Path, target: Path, sha256: str) -> None:
    """Move a file. Between file systems it is copied, flushed, and only then removed.

    An interrupted move is finished by the same call. The caller flushes the folders of a rename.

    Raises:
        FileExistsError: there is a file at `target`.
        OSError: it cannot be moved, or what was copied is not of `sha256`.
    """
    try:
        _rename_new(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if not (sha256 and target.is_file() and sha256_of(target) == sha256):
            _copy_new(source, target, sha256)
        flush(target.parent)
        source.unlink()


def _rename_new(source: Path, target: Path) -> None:
    paths = (_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target))
    if _LIBC.renameat2(*paths, _RENAME_NOREPLACE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code))
    if os.path.lexists(target):  # NFS cannot say "only if it is new"
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    source.rename(target)


def _copy_new(source: Path, target: Path, sha256: str) -> None:
    partial = target.with_name(PARTIAL)
    try:
        shutil.copyfile(source, partial)
        if sha256 and sha256_of(partial) != sha256:
            raise OSError(errno.ESTALE, "The file changed while it was copied")
        flush(partial)
        with suppress(OSError):  # not every file system keeps times
            shutil.copystat(source, partial)
        _rename_new(partial, target)
    finally:
        partial.unlink(missing_ok=True)
