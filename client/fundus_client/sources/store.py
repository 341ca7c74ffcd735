"""Objects of S3 and of other stores that fsspec knows. Credentials and retries are the store library's own.

S3 lists all keys below a prefix in the order of their names, a thousand at a time. Other stores are listed
folder by folder.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from glob import has_magic
from itertools import islice
from typing import Any

from fundus_client.sources.pattern import parse_pattern
from fundus_client.sources.ref import Ref, common_prefix, merged
from fundus_client.sources.wanted import by_name
from fundus_core.errors import FundusError, ImageError, MissingExtraError, UsageError
from fundus_core.files import Wanted, sort_name, stamp_of
from fundus_core.images import ImageLimits

_LOOKERS = 16
_CHUNK = 64
# the words of S3, Google Cloud Storage, Azure and fsspec's own stores for the version of an object
_VERSION = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "created", "mtime")


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a store says of an object without reading it."""

    n_bytes: int
    stamp: bytes
    is_folder: bool


@dataclass(frozen=True, slots=True)
class StoreRef:
    """One object, with what the store said of it when it was listed, or why it said nothing."""

    image_id: str
    store: "Store"
    key: str
    facts: _Facts | ImageError

    @property
    def acquisition(self) -> None:
        """Nothing is known of where and how it was taken: it is not opened."""

    def size_bytes(self) -> int:
        """Return how many bytes it has, 0 where that cannot be told."""
        return 0 if isinstance(self.facts, ImageError) else self.facts.n_bytes

    def stamp(self) -> bytes:
        """Return 16 bytes of the object's address, size and version, b"" where the store tells no version."""
        return b"" if isinstance(self.facts, ImageError) else self.facts.stamp

    def head(self, n_bytes: int) -> bytes:
        """Return its first bytes, b"" where it cannot be read."""
        if isinstance(self.facts, ImageError) or self.facts.is_folder:
            return b""
        try:
            return self.store.fetch(self.key, n_bytes)
        except ImageError:
            return b""

    def read(self, limits: ImageLimits) -> bytes:
        """Return the object's bytes; never more than one above the limit is fetched.

        Raises:
            ImageError: `vanished`, `unreadable`, `not_a_file`, `empty` or `too_large`.
        """
        if isinstance(self.facts, ImageError):
            raise self.facts
        if self.facts.is_folder:
            raise ImageError("not_a_file", "This is a folder. Give it as an argument to score what is in it.")
        limits.check_bytes(self.facts.n_bytes)
        data = self.store.fetch(self.key, limits.max_bytes + 1)
        limits.check_bytes(len(data))
        return data


@dataclass(frozen=True)
class Store:
    """A `Place` of addresses such as s3://bucket/key; a key is the address without its protocol."""

    file_system: Any  # fsspec.AbstractFileSystem
    protocol: str

    @property
    def is_s3(self) -> bool:
        """Whether keys begin with a bucket and can be listed in pages."""
        return self.protocol in ("s3", "s3a")

    def key(self, name: str) -> str:
        """Return what the store library calls the object at an address."""
        return str(self.file_system._strip_protocol(name))

    def refs(self, named: Iterable[tuple[str, str]]) -> Iterator[Ref]:
        """Yield objects after asking the store about them, many at a time."""
        named = iter(named)
        with ThreadPoolExecutor(_LOOKERS) as pool:
            while chunk := list(islice(named, _CHUNK)):
                looks = pool.map(self.look, [key for _, key in chunk])
                for (image_id, key), facts in zip(chunk, looks, strict=True):
                    yield StoreRef(image_id, self, key, facts)

    def look(self, key: str) -> _Facts | ImageError:
        """Return what the store says of an object or folder."""
        try:
            return self._facts(key, self.file_system.info(key))
        except Exception as error:
            return _image_error(error)

    def fetch(self, key: str, max_bytes: int) -> bytes:
        """Return the first `max_bytes` of an object.

        Raises:
            ImageError: `vanished` or `unreadable`.
        """
        try:
            return bytes(self.file_system.cat_file(key, start=0, end=max_bytes))
        except Exception as error:
            raise _image_error(error) from None

    def walk(self, folder: str, base: str, wanted: Wanted = by_name) -> Iterator[StoreRef]:
        """Yield what is `wanted` (by its path below `folder`), in order; ids are relative to `base`."""
        levels = self._pages if self.is_s3 else self._levels
        for key, facts in levels(folder, wanted):
            yield StoreRef(key.removeprefix(base) or "/", self, key, facts)

    def _pages(self, folder: str, wanted: Wanted) -> Iterator[tuple[str, _Facts | ImageError]]:
        bucket, prefix, _ = self.file_system.split_path(folder)
        query = {"Bucket": bucket, "Prefix": prefix and f"{prefix}/"}
        while True:
            try:
                page = self.file_system.call_s3("list_objects_v2", **query)
            except Exception as error:
                raise FundusError(
                    f"'{self.protocol}://{folder}' cannot be listed. {_image_error(error)}"
                ) from None
            for entry in page.get("Contents", ()):
                below = entry["Key"].removeprefix(query["Prefix"])
                if not below.endswith("/") and below and wanted(below, False):  # else it stands for a folder
                    key = f"{bucket}/{entry['Key']}"
                    yield key, self._facts(key, {"type": "file", "size": entry["Size"], **entry})
            if not page.get("IsTruncated"):
                return
            query["ContinuationToken"] = page["NextContinuationToken"]

    def _levels(
        self, folder: str, wanted: Wanted, below: str = ""
    ) -> Iterator[tuple[str, _Facts | ImageError]]:
        try:
            entries = self.file_system.ls(folder, detail=True)
        except Exception as error:
            yield f"{folder}/", _image_error(error)
            return
        named = [(entry["name"].removeprefix(folder).strip("/"), entry) for entry in entries]
        for name, entry in sorted(named, key=lambda each: sort_name(each[0], _is_folder(each[1]))):
            if name and wanted(below + name, _is_folder(entry)):
                key = entry["name"].rstrip("/")
                if _is_folder(entry):
                    yield from self._levels(key, wanted, f"{below}{name}/")
                else:
                    yield key, self._facts(key, entry)

    def _facts(self, key: str, info: Mapping[str, Any]) -> _Facts | ImageError:
        if self.is_s3 and "?versionId=" in key:  # s3fs cuts it off, and would read another object
            return ImageError("unreadable", "A name with '?versionId=' is not read. Copy the object.")
        n_bytes = int(info.get("size") or 0)
        version = [_text(info[name]) for name in _VERSION if info.get(name)]
        return _Facts(n_bytes, stamp_of(key, n_bytes, *version) if version else b"", _is_folder(info))


def open_store(protocol: str) -> Store:
    """Return the store that addresses with `protocol` lead to.

    Raises:
        MissingExtraError: fsspec or s3fs is not installed.
        UsageError: fsspec cannot open such a store without further settings.
    """
    try:
        import fsspec
    except ImportError:
        raise MissingExtraError("s3", "fsspec") from None
    try:
        options = {"use_listings_cache": False, "skip_instance_cache": True}
        return Store(fsspec.filesystem(protocol, **options), protocol)
    except Exception as error:
        if isinstance(error, ImportError) and protocol in ("s3", "s3a"):
            raise MissingExtraError("s3", "s3fs") from None
        hint = "Install the fsspec package for it, or copy the images to this computer."
        raise UsageError(f"Addresses with {protocol}:// cannot be opened. {hint}") from None


@dataclass(frozen=True)
class _Root:
    """What one address leads to: an object, or a folder with what is `wanted` below it."""

    key: str
    facts: _Facts
    wanted: Wanted | None

    @property
    def outermost(self) -> str:
        return f"{self.key}/" if self.wanted else self.key


class StoreSource:
    """Everything below objects, folders and patterns of one store; ids are relative to the folder of all.

    Raises:
        UsageError: an address leads to nothing, or the store refuses it.
    """

    n_repeated = 0

    def __init__(self, store: Store, addresses: Sequence[str]) -> None:
        self._store = store
        with ThreadPoolExecutor(_LOOKERS) as pool:
            self._roots = list(pool.map(partial(_root, store), addresses))
        self._base = common_prefix([root.outermost for root in self._roots])
        for root, address in zip(self._roots, addresses, strict=True):
            if root.wanted not in (None, by_name) and next(self._stream(root), None) is None:
                raise UsageError(f"Nothing matches '{address}'. Check the pattern.")

    def __iter__(self) -> Iterator[Ref]:
        """Walk everything once."""
        return merged(map(self._stream, self._roots))

    def _stream(self, root: _Root) -> Iterator[StoreRef]:
        if root.wanted:
            return self._store.walk(root.key, self._base, root.wanted)
        return iter([StoreRef(root.key.removeprefix(self._base), self._store, root.key, root.facts)])


def _root(store: Store, address: str) -> _Root:
    key = store.key(address)
    bucket = key.partition("/")[0]
    if store.is_s3 and (not bucket or has_magic(bucket)):
        raise UsageError(f"'{address}' names no bucket. Write {store.protocol}://bucket/folder.")
    facts = store.look(key)
    if not isinstance(facts, ImageError):
        return _Root(key, facts, by_name if facts.is_folder or address.endswith("/") else None)
    if facts.reason != "vanished":
        raise UsageError(f"'{address}' cannot be read. {facts}")
    if not has_magic(key):
        raise UsageError(f"There is no object or folder '{address}'. Check the address.")
    pattern = parse_pattern(key)
    return replace(_root(store, f"{store.protocol}://{pattern.folder.lstrip('/')}"), wanted=pattern.wants)


def _text(value: object) -> str:
    # to the second, in no time zone: a listing and a look at one object differ in both
    return str(int(value.timestamp())) if isinstance(value, datetime) else str(value)


def _is_folder(info: Mapping[str, Any]) -> bool:
    return bool(info["type"] == "directory")


def _image_error(error: Exception) -> ImageError:
    """Say what a store's library ran into, without its own words: they may hold an address or a key."""
    if isinstance(error, FileNotFoundError):
        return ImageError("vanished", "The object was listed but is gone.")
    if isinstance(error, PermissionError):
        return ImageError("unreadable", "The store refuses it. Check the credentials and their rights.")
    name = type(error).__name__
    return ImageError(
        "unreadable", f"The store cannot be read ({name}). Check the network and the credentials."
    )
