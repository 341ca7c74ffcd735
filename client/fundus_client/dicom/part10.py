"""DICOM files (PS3.10) read as far as is needed; their pixels are neither copied nor decoded here.

Nothing of a value gets into a log, a warning or a message: what pydicom would say is silenced once, here.
"""

import io
import logging
import re
import warnings
import zlib
from dataclasses import dataclass
from functools import cache

from pydicom import config
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from fundus_core.errors import ImageError

MAX_INFLATED_BYTES = 2**28  # of a deflated object

_META_AT, _META_END = 132, 0x00030000
_UID = re.compile(r"[0-9.]{1,64}")

# For the whole process: readers are threads, and one would undo what another one silences for itself.
config.settings.reading_validation_mode = config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="pydicom")


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that was read up to some tag.

    Args:
        data: the file, inflated where it was deflated.
        syntax: the UID of its transfer syntax.
        dataset: the wanted attributes that it has.
        tag: of the first element that was not read; `vr`: "" where the file does not say.
        length: of its value in bytes, 0xFFFFFFFF where it is undefined.
        value_at: where in `data` the value starts.
    """

    data: bytes
    syntax: str
    dataset: Dataset
    tag: int
    vr: str
    length: int
    value_at: int


class _Stop:
    """Ends reading at the first tag from `end` on, and remembers the element."""

    def __init__(self, end: int) -> None:
        self.end, self.tag, self.vr, self.length = end, 0, "", 0

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag < self.end:
            return False
        self.tag, self.vr, self.length = int(tag), vr or "", length
        return True


def open_until(end: int, data: bytes, wanted: tuple[str, ...]) -> Opened | None:
    """Read the attributes `wanted` (keywords) of a file, or of its first bytes, before the tag `end`.

    Returns:
        None where the bytes end before that tag.

    Raises:
        ImageError: `corrupt` where it is no DICOM file, `too_large` where it inflates to too much.
    """
    stream = io.BytesIO(data)
    try:
        return _open(end, stream, data, wanted)
    except ImageError:
        raise
    except Exception:  # hostile bytes raise nearly anything
        if stream.tell() >= len(data):
            return None
        raise ImageError("corrupt", "The header of the DICOM object cannot be read.") from None


def _open(end: int, stream: io.BytesIO, data: bytes, wanted: tuple[str, ...]) -> Opened | None:
    stream.seek(_META_AT)
    stop = _Stop(_META_END)
    syntax = uid(read_dataset(stream, False, True, stop_when=stop), "TransferSyntaxUID")
    if not stop.tag:
        return None
    if syntax == DeflatedExplicitVRLittleEndian:
        data = _inflated(stream.read())
        stream = io.BytesIO(data)
    stop = _Stop(end)
    dataset = read_dataset(
        stream,
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        stop_when=stop,
        specific_tags=_tags(wanted),
    )
    if not stop.tag:
        return None
    value_at = stream.tell() + (12 if stop.vr in EXPLICIT_VR_LENGTH_32 else 8)
    return Opened(data, syntax, dataset, stop.tag, stop.vr, stop.length, value_at)


@cache
def _tags(keywords: tuple[str, ...]) -> list[BaseTag | int]:
    return [BaseTag(tag_for_keyword(keyword) or 0) for keyword in keywords]


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise ImageError("too_large", f"The object inflates to more than {MAX_INFLATED_BYTES:,} bytes.")
    return inflated


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of an attribute, each on one line; none where it is absent or cannot be read."""
    try:
        value = dataset.get(keyword)
        values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
        told = (each for each in values if not isinstance(each, Dataset | None))  # of a sequence nothing
        return tuple(" ".join(str(each).split()) for each in told)
    except Exception:  # a broken value is as good as none
        return ()


def text(dataset: Dataset, keyword: str) -> str:
    """Return the first value of an attribute; "" where it is absent, empty or cannot be read."""
    return next(iter(texts(dataset, keyword)), "")


def number(dataset: Dataset, keyword: str) -> int:
    """Return the first value as a whole number; 0 where there is none."""
    found = text(dataset, keyword)
    return int(found) if found.isascii() and found.isdigit() and len(found) < 12 else 0


def uid(dataset: Dataset, keyword: str) -> str:
    """Return a UID; "" where it is absent, or holds anything else than digits and dots."""
    found = text(dataset, keyword)
    return found if _UID.fullmatch(found) else ""
