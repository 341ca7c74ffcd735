"""What every source of images looks like, and how the sorted streams of several become one."""

import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Protocol

from fundus_core.acquisition import Acquisition
from fundus_core.images import ImageLimits


class Image(Protocol):
    """One image that can be read. Every method may ask a disk or the network: call it in a thread."""

    @property
    def image_id(self) -> str:
        """Its name in the table."""

    def size_bytes(self) -> int:
        """Return how many bytes it has, 0 where that cannot be told."""

    def stamp(self) -> bytes:
        """Return 16 bytes that stay the same while it surely does, b"" where that cannot be told.

        Ask before reading: a change in between then shows the next time.
        """

    def read(self, limits: ImageLimits) -> bytes:
        """Return the encoded bytes.

        Raises:
            ImageError: with the reason why there are none.
        """


class Ref(Image, Protocol):
    """One image among the inputs of a run."""

    def __hash__(self) -> int:
        """Be a key."""

    @property
    def acquisition(self) -> Acquisition | None:
        """Where and how it was taken, where it is a frame of a DICOM object."""

    def head(self, n_bytes: int) -> bytes:
        """Return the first bytes of its file, b"" where that cannot be read."""


class Source(Protocol):
    """Images in the order of their ids, streamed, as often as they are asked for; no id comes twice.

    What appears, changes or goes between two walks is seen by the second.
    """

    @property
    def n_repeated(self) -> int:
        """How often a list names what it has named before."""

    def __iter__(self) -> Iterator[Ref]:
        """Walk the images once.

        Raises:
            FundusError: a store stopped answering while it was listed.
        """


class Place(Protocol):
    """Where listed names lead to: the disk, or an object store."""

    def key(self, name: str) -> str:
        """Return the one absolute name of what a person calls `name`."""

    def refs(self, named: Iterable[tuple[str, str]]) -> Iterator[Ref]:
        """Yield the images of (image_id, key) pairs."""


def merged(streams: Iterable[Iterator[Ref]]) -> Iterator[Ref]:
    """Merge streams that are sorted by `image_id`; what stands in several comes once."""
    by_id = attrgetter("image_id")
    for _, same in groupby(heapq.merge(*streams, key=by_id), key=by_id):
        yield next(same)


def common_prefix(keys: Sequence[str]) -> str:
    """Return the innermost folder that holds all `keys`, ending in "/"; a key that ends so is a folder."""
    prefix = os.path.commonprefix(keys)  # noqa: RUF071 (a key of a store is no path: "//" stays)
    return prefix[: prefix.rfind("/") + 1]
