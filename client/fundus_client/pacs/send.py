"""DICOM objects to an archive by C-STORE, and what an archive answers to an object."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydicom import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.status import STATUS_SUCCESS, STATUS_WARNING, STORAGE_SERVICE_CLASS_STATUS, code_to_category

import fundus_client.dicom.part10  # noqa: F401  it keeps pydicom from quoting values
from fundus_client.pacs.peer import Caller, Peer, association

_config.STORE_SEND_CHUNKED_DATASET = True  # an object goes out as it lies on the disk, never whole in memory

_MAX_CONTEXTS = 127  # 128 of an association (PS3.8), less one for Verification
_VERIFICATION = "1.2.840.10008.1.1"
_TEMPORARY = frozenset((*range(0xA700, 0xA800), 0x0110, 0x0213))  # out of resources, processing failure
_UNKNOWN = "no reason known to the standard"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One object on the disk, by its file meta information."""

    path: Path
    class_uid: str
    sop_uid: str
    syntax_uid: str

    @property
    def kind(self) -> tuple[str, str]:
        """What an association must have a presentation context for: SOP class and transfer syntax."""
        return self.class_uid, self.syntax_uid


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one object: `later` may be tried again, `refused` never will be taken as it is.

    Args:
        outcome: `sent` only after the archive said that it has it.
        reason: why not; of `sent` a note, if there is one.
        pause_s: the archive asks not to be called before that.
    """

    outcome: Literal["sent", "later", "refused"]
    reason: str = ""
    pause_s: float = 0.0


class Sender(Protocol):
    """One way to one archive."""

    @property
    def name(self) -> str:
        """The archive, as it is printed and remembered."""
        ...

    def send(self, objects: Iterable[Outgoing]) -> Iterator[tuple[Outgoing, Answer]]:
        """Yield what became of each object as soon as it is known.

        Raises:
            PacsUnreachableError: nobody answers; the objects that were not yielded may be sent again.
            PacsError: the archive will have nothing from us.
        """
        ...


def read_outgoing(path: Path) -> Outgoing | None:
    """Return what the file meta information says; None where it does not name class, object and syntax."""
    try:
        meta = read_file_meta_info(path)
        uids = (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID)
    except Exception:  # noqa: BLE001, RUF100  pydicom raises nearly anything on damaged bytes
        return None
    return Outgoing(path, *map(str, uids)) if all(map(_is_uid, uids)) else None


def answer_of(code: int) -> Answer:
    """Return what a status of the storage service means (PS3.4 B.2.3, PS3.7 C)."""
    category, meaning = STORAGE_SERVICE_CLASS_STATUS.get(code, (code_to_category(code), ""))
    if category == STATUS_SUCCESS:
        return Answer("sent")
    reason = f"0x{code:04X} {meaning or _UNKNOWN}"
    if category == STATUS_WARNING:
        return Answer("sent", reason)
    return Answer("later" if code in _TEMPORARY else "refused", reason)


@dataclass(frozen=True)
class DimseSender:
    """C-STORE to `peer`: many objects over one association, which is opened anew where it breaks."""

    peer: Peer
    caller: Caller

    @property
    def name(self) -> str:
        """The archive as "AET@host:port"."""
        return str(self.peer)

    def send(self, objects: Iterable[Outgoing]) -> Iterator[tuple[Outgoing, Answer]]:
        """Yield what became of each object, see `Sender`."""
        waiting = deque(objects)
        while waiting:
            kinds = _first_kinds(waiting)
            # With Verification, a peer that takes none of the kinds still answers: each has its reason.
            contexts = [build_context(_VERIFICATION), *(build_context(*kind) for kind in sorted(kinds))]
            with association(self.peer, self.caller, contexts) as made:
                accepted = _kinds_of(made.accepted_contexts)
                while waiting and made.is_established and waiting[0].kind in kinds:
                    each = waiting.popleft()
                    yield each, _store(made, each) if each.kind in accepted else _not_accepted(each)


def _first_kinds(waiting: Iterable[Outgoing]) -> set[tuple[str, str]]:
    """Return the kinds of the first objects, as many as one association can have contexts for."""
    kinds: set[tuple[str, str]] = set()
    for each in waiting:
        if len(kinds) == _MAX_CONTEXTS:
            break
        kinds.add(each.kind)
    return kinds


def _kinds_of(contexts: Iterable[PresentationContext]) -> set[tuple[str, str]]:
    return {(str(each.abstract_syntax), str(syntax)) for each in contexts for syntax in each.transfer_syntax}


def _store(made: Association, each: Outgoing) -> Answer:
    try:
        status = made.send_c_store(each.path)
    except (OSError, AttributeError, ValueError):
        return Answer("later", "the file changed or cannot be read")
    return _answer(status)


def _answer(status: Dataset) -> Answer:
    if "Status" not in status:  # the peer aborted, timed out, or is gone
        return Answer("later", "the archive fell silent")
    return answer_of(int(status.Status))


def _not_accepted(each: Outgoing) -> Answer:
    name, syntax = UID(each.class_uid).name, UID(each.syntax_uid).name
    return Answer("refused", f"the archive does not accept {name} in {syntax}")


def _is_uid(value: object) -> bool:
    return isinstance(value, UID) and value.is_valid
