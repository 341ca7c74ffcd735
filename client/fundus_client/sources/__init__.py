"""What `fundus-client score` can read: files, folders, patterns, object stores, and lists of names."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from fundus_client.sources.disk import Disk, DiskSource
from fundus_client.sources.listed import ListedSource, read_names
from fundus_client.sources.ref import Image, Ref, Source
from fundus_client.sources.store import StoreSource, open_store
from fundus_core.errors import UsageError

__all__ = ["Image", "Ref", "Source", "open_source"]

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://")
_WITH_PASSWORD = re.compile(r"[^/]*://[^/]*:[^/]*@")


def open_source(inputs: Sequence[str], files_from: str | None) -> Source:
    """Return the images below `inputs`, or those that the list `files_from` ("-": standard input) names.

    An input is a file, a folder, a pattern that is no file's name, or such an address of an object store.
    Folders and patterns are walked anew each time; a list is read once. A name in a list that leads nowhere
    is an image without bytes: it gets a row with a reason.

    Raises:
        UsageError: there is no such file, folder, object or list; a pattern matches nothing; kinds are mixed.
        MissingExtraError: an address, and the library for its store is not installed.
    """
    if bool(inputs) == (files_from is not None):
        raise UsageError("Name images and folders, or a list of them with --files-from, but not both.")
    names: Iterator[str] = map(_plain, read_names(files_from) if files_from is not None else inputs)
    first = next(names, None)
    if first is None:
        raise UsageError(f"The list '{files_from}' names no image. Write one path or address a line.")
    protocol = _protocol(first)
    names = _of_one_kind(protocol, chain([first], names))
    if files_from is not None:
        return ListedSource(open_store(protocol) if protocol else Disk(), names)
    return StoreSource(open_store(protocol), list(names)) if protocol else DiskSource(list(names))


def _plain(name: str) -> str:
    return name.removeprefix("file://")


def _protocol(name: str) -> str:
    """Return "s3" of "s3://bucket/key", "" of a path."""
    address = _ADDRESS.match(name)
    return address[1] if address else ""


def _of_one_kind(protocol: str, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if protocol in ("http", "https") or _WITH_PASSWORD.match(name):
            raise UsageError(
                "Only stores such as s3://bucket/folder are read; no address may hold a password."
            )
        if _protocol(name) != protocol:
            raise UsageError(f"'{name}' is not where the others are. Name paths, or addresses of one store.")
        yield name
