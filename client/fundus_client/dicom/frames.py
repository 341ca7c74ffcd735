"""DICOM objects among the inputs: each frame is an image of its own, what is no photograph has a reason."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import TypeVar

from fundus_client.sources.ref import Ref, Source
from fundus_client.sources.store import StoreRef
from fundus_client.sources.wanted import MAGIC_END, is_dicom
from fundus_core.acquisition import Acquisition
from fundus_core.errors import ImageError, MissingExtraError
from fundus_core.files import by_suffix
from fundus_core.images import ImageLimits

T = TypeVar("T")

MAX_BYTES = 2**30  # of an object; a frame's own limits are those of any image
_HEADS = (2**16, 2**20, MAX_BYTES)  # nearly every header is within the first


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of the DICOM object `ref`, or why there is none to score."""

    image_id: str
    ref: Ref
    acquisition: Acquisition | None
    n_bytes: int  # decoded
    refusal: ImageError | None = None

    @property
    def number(self) -> int:
        """Its number within the object, from 1."""
        return self.acquisition.frame if self.acquisition else 1

    @property
    def has_siblings(self) -> bool:
        """Whether the object has further frames."""
        return self.image_id != self.ref.image_id

    def size_bytes(self) -> int:
        """Return how many bytes it takes in memory at most, 0 where that cannot be told."""
        return max(self.n_bytes, self.ref.size_bytes())

    def stamp(self) -> bytes:
        """Return the stamp of the object."""
        return self.ref.stamp()

    def head(self, n_bytes: int) -> bytes:
        """Return the first bytes of the object."""
        return self.ref.head(n_bytes)

    def read(self, limits: ImageLimits) -> bytes:
        """Return the frame, encoded as a server can decode it.

        Raises:
            ImageError: with the reason why there is none.
        """
        from fundus_client.dicom.pixels import encoded_frame

        if self.refusal:
            raise self.refusal
        whole = replace(limits, max_bytes=MAX_BYTES)
        data = _last_read(self.ref, self.stamp(), whole) if self.has_siblings else self.ref.read(whole)
        return encoded_frame(data, self.number, limits)


@lru_cache(maxsize=1)
def _last_read(ref: Ref, stamp: bytes, limits: ImageLimits) -> bytes:
    """Return the bytes of an object; kept, since its next frame is read next."""
    return ref.read(limits)


@dataclass(frozen=True)
class Frames:
    """A source whose DICOM objects are replaced by their frames; several have ids such as "eye.dcm/02".

    Args:
        of_patient: gives the pseudonym of a PatientID.
    """

    source: Source
    of_patient: Callable[[str], str]

    @property
    def n_repeated(self) -> int:
        """How often a list names what it has named before."""
        return self.source.n_repeated

    def __iter__(self) -> Iterator[Ref]:
        """Walk everything once, and look into each object.

        Raises:
            MissingExtraError: there is a DICOM object, and pydicom is not installed.
        """
        for ref in self.source:
            if _may_be_dicom(ref) and is_dicom(ref.head(MAGIC_END)):
                yield from self._frames(ref)
            else:
                yield ref

    def _frames(self, ref: Ref) -> Iterator[Frame]:
        try:  # here, because pydicom takes 0.3 s, and most runs need none
            from fundus_client.dicom.header import read_header
        except ModuleNotFoundError as error:
            raise MissingExtraError("dicom", error.name or "pydicom") from None
        try:
            header = from_head(ref, lambda head: read_header(head, self.of_patient))
        except ImageError as error:
            yield Frame(ref.image_id, ref, None, 0, error)
            return
        refusal = ImageError("not_a_photograph", header.refusal) if header.refusal else None
        n_digits = len(str(len(header.frames)))
        for known in header.frames:
            below = f"/{known.frame:0{n_digits}}" if len(header.frames) > 1 else ""
            yield Frame(ref.image_id + below, ref, known, header.n_bytes, refusal)


def unknown(patient_id: str) -> str:
    """Return the pseudonym of every patient where there is no key for others."""
    return ""


def by_object(source: Frames) -> Iterator[list[Frame]]:
    """Yield the frames of each DICOM object; what is none is passed over."""
    frames = (ref for ref in source if isinstance(ref, Frame))
    return (list(of_object) for _, of_object in groupby(frames, key=lambda frame: frame.ref.image_id))


def from_head(ref: Ref, parse: Callable[[bytes], T | None]) -> T:
    """Return what `parse` makes of the first bytes of an object; None asks for more of them.

    Raises:
        ImageError: the object ends before `parse` has enough, or what `parse` raises.
    """
    for n_bytes in _HEADS:
        head = ref.head(n_bytes)
        if (found := parse(head)) is not None:
            return found
        if len(head) < n_bytes:
            break
    raise ImageError("corrupt", "The DICOM object ends within its header.")


def _may_be_dicom(ref: Ref) -> bool:
    """Whether to look: not at each image of a store, where every look is a request."""
    return not isinstance(ref, StoreRef) or not by_suffix(ref.image_id, False)
