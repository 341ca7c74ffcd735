"""The C-STORE SCP: it never acknowledges what is not safely on the disk.

The class of an object is no reason to refuse it: a modality sends whole studies, and would call them failed.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext

from fundus_client.pacs.commitment import Answers, Committer
from fundus_client.pacs.peer import Caller
from fundus_client.pacs.scp import Listening as Listening
from fundus_client.pacs.scp import serving
from fundus_client.pacs.spool import (
    CANNOT_UNDERSTAND,
    OUT_OF_RESOURCES,
    Change,
    Spool,
    SpoolError,
    open_spool,
)
from fundus_client.pacs.spool import Stored as Stored
from fundus_core.errors import FundusError

_LOG = logging.getLogger(__name__)
_VERIFICATION = "1.2.840.10008.1.1"
# A few bytes may hold gigabytes, or only say where the pixels are.
_NOT_TAKEN = ("Deflate", "JPIP", "SMPTE")
SYNTAXES: list[str | UID] = sorted(
    (uid for uid in map(UID, ALL_TRANSFER_SYNTAXES) if not any(word in uid.name for word in _NOT_TAKEN)),
    key=lambda uid: uid != ExplicitVRLittleEndian,  # of those that a sender offers, we take our first
)


@dataclass(frozen=True)
class Receiver:
    """A listener at work: its port, and what peers answer there to our requests for storage commitment."""

    port: int
    answers: Answers


@contextmanager
def receiving(
    folder: Path,
    settings: Listening,
    on_stored: Callable[[Stored], None],
    change: Change | None = None,
    elsewhere: Callable[[], Iterable[Path]] = tuple,
) -> Iterator[Receiver]:
    """Store what is sent to us while the block runs, as `folder`/STUDY/OBJECT.dcm.

    Args:
        folder: made if missing.
        settings: where we listen, and to whom.
        on_stored: called before the sender gets its answer, in a thread of the sender's; where it raises, the
            sender is told that we did not take the object.
        change: what is stored in place of an object, see `open_spool`.
        elsewhere: other folders of studies, where objects are taken to: for storage commitment they count.

    Raises:
        UsageError: another command of this computer stores into `folder`.
        PortTakenError: another program listens there.
        ServerError: the port needs administrator rights, or the host is no address of this computer.
    """
    answers = Answers()
    with open_spool(folder, settings.min_free_bytes, change) as spool:
        committer = Committer(lambda: [folder, *elsewhere()], Caller(settings.ae_title), settings.commit_to)
        store: EventHandlerType = (evt.EVT_C_STORE, _store, [spool, on_stored])
        handlers = [store, *answers.handlers, *committer.handlers]
        with serving(settings, [*_contexts(), *answers.contexts], handlers) as port:
            yield Receiver(port, answers)


def _contexts() -> list[PresentationContext]:
    storage = (str(each.abstract_syntax) for each in AllStoragePresentationContexts)
    return [build_context(_VERIFICATION), *(build_context(uid, SYNTAXES) for uid in storage)]


def _store(event: Event, spool: Spool, on_stored: Callable[[Stored], None]) -> int:
    """Return the status of C-STORE (PS3.4 B.2.3)."""
    try:
        encoded = event.encoded_dataset()
    except (AttributeError, ValueError):  # no data, or UIDs that no file header can hold
        return CANNOT_UNDERSTAND
    try:
        on_stored(spool.put(encoded))
    except SpoolError as error:
        _LOG.warning("Not taken from %r: %s", event.assoc.requestor.ae_title, error)
        return error.status
    except (FundusError, OSError) as error:
        _LOG.warning("Not taken from %r: %s", event.assoc.requestor.ae_title, error)
        return OUT_OF_RESOURCES
    return 0x0000
