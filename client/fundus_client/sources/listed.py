"""Images that a list names, one path or address a line."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fundus_client.sources.ref import Place, Ref, common_prefix
from fundus_core.errors import FundusError, UsageError

_CHUNK = 2**16
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class ListedSource:
    """What a list names, sorted, each once. Ids are relative to the innermost folder that holds all.

    The names are kept in an SQLite database without a name, which keeps what is too much for its cache in a
    temporary file: standard input can be walked twice, and a million names take no more memory than a few.

    Raises:
        FundusError: there is no room for temporary files.
    """

    def __init__(self, place: Place, names: Iterator[str]) -> None:
        self._place, n_names = place, 0
        self._database = sqlite3.connect("", check_same_thread=False)
        try:
            self._database.execute("CREATE TABLE listed (key BLOB PRIMARY KEY) WITHOUT ROWID")
            for name in names:
                n_names += 1
                self._database.execute("INSERT OR IGNORE INTO listed VALUES (?)", (_packed(place.key(name)),))
        except sqlite3.Error as error:
            raise FundusError(f"The list has no room in the temporary folder: {error}. Set TMPDIR.") from None
        n_keys, *ends = self._database.execute("SELECT count(*), min(key), max(key) FROM listed").fetchone()
        self.n_repeated = n_names - n_keys
        self._base = common_prefix([_unpacked(end) for end in ends])

    def __iter__(self) -> Iterator[Ref]:
        """Walk the list once."""
        keys = map(
            _unpacked, (key for (key,) in self._database.execute("SELECT key FROM listed ORDER BY key"))
        )
        return self._place.refs((key.removeprefix(self._base), key) for key in keys)


def _packed(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")  # sorts as Python sorts texts, odd bytes of a name included


def _unpacked(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


def read_names(list_path: str) -> Iterator[str]:
    r"""Yield the names in a file, "-" for standard input; "\0" ends each where there is one, else "\n".

    Raises:
        UsageError: the list cannot be read, is UTF-16, or no list.
    """
    title = "Standard input" if list_path == "-" else f"'{list_path}'"
    try:
        with open(0, "rb", closefd=False) if list_path == "-" else Path(list_path).open("rb") as file:
            for name in _split(file, title):
                if name:
                    yield os.fsdecode(name)
    except OSError as error:
        raise UsageError(f"{title} cannot be read: {error.strerror}. Check the path.") from None


def _split(file: BinaryIO, title: str) -> Iterator[bytes]:
    data, rest = file.read(_CHUNK), b""
    if data.startswith(_UTF16):
        raise UsageError(f"{title} is UTF-16. Save the list as UTF-8.")
    data = data.removeprefix(_BOM)
    end = b"\0" if b"\0" in data else b"\n"
    while data or rest:
        *names, rest = (rest + data).split(end)
        data = file.read(_CHUNK)
        if not data:
            names, rest = [*names, rest], b""
        if len(rest) > _CHUNK or any(b"\0" in name for name in names):
            raise UsageError(f"{title} is no list of paths. Write one a line, or end each with a zero byte.")
        for name in names:
            yield name.removesuffix(b"\r") if end == b"\n" else name
