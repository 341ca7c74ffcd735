"""Inputs under keyed pseudonyms: what is written, logged or journaled does not hold their names."""

from collections.abc import Iterator
from dataclasses import dataclass

from fundus_client.sources import Ref, Source
from fundus_core.acquisition import Acquisition
from fundus_core.images import ImageLimits
from fundus_core.pseudonyms import Pseudonyms


@dataclass(frozen=True, slots=True)
class Pseudonymous:
    """A source whose refs carry pseudonyms for ids."""

    source: Source
    names: Pseudonyms

    @property
    def n_repeated(self) -> int:
        """How often a list names what it has named before."""
        return self.source.n_repeated

    def __iter__(self) -> Iterator[Ref]:
        return (_Renamed(self.names.of(ref.image_id), ref, self.names) for ref in self.source)


@dataclass(frozen=True, slots=True)
class _Renamed:
    image_id: str
    ref: Ref
    names: Pseudonyms

    @property
    def acquisition(self) -> Acquisition | None:
        known = self.ref.acquisition
        return known and known.pseudonymised(self.names)

    def size_bytes(self) -> int:
        return self.ref.size_bytes()

    def stamp(self) -> bytes:
        stamp = self.ref.stamp()  # a hash of the path, among others: without a key it could be guessed
        return self.names.of(stamp.hex()).encode() if stamp else b""

    def head(self, n_bytes: int) -> bytes:
        return self.ref.head(n_bytes)

    def read(self, limits: ImageLimits) -> bytes:
        return self.ref.read(limits)
