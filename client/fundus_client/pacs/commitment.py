"""Storage commitment, push model (PS3.4 J): who takes over the responsibility for objects.

Whoever stored objects asks by N-ACTION, and is answered by N-EVENT-REPORT: in the same association while it
is open, or in another one, which the archive opens. Both sides are here: we ask, and we are asked.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from pydicom import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import generate_uid
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext

from fundus_client.pacs.gate import gated
from fundus_client.pacs.peer import Caller, Peer, association, code_of
from fundus_core.errors import PacsError, PacsUnreachableError

_LOG = logging.getLogger(__name__)
_CLASS, _INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
_REQUEST, _ALL_COMMITTED, _SOME_FAILED = 1, 1, 2  # action type; event types
_NO_SUCH_OBJECT, _ANOTHER_CLASS, _PROCESSING_FAILURE = 0x0112, 0x0119, 0x0110  # PS3.3 C.14
_RETRIES_S = (0, 2, 10, 60)


@dataclass(frozen=True)
class Reference:
    """One object, as a commitment names it."""

    class_uid: str
    sop_uid: str


@dataclass(frozen=True)
class Outcome:
    """What an archive took over, by SOP instance UID; the others with its failure reason (PS3.3 C.14)."""

    committed: frozenset[str]
    failed: dict[str, int]


@dataclass
class Answers:
    """The answers to our requests, from whatever association they come."""

    _outcomes: dict[str, Outcome | None] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def contexts(self) -> list[PresentationContext]:
        """What a listener must accept to hear them."""
        context = build_context(_CLASS)
        context.scu_role = context.scp_role = True
        return [context]

    @property
    def handlers(self) -> list[EventHandlerType]:
        """What a listener, or an association, does with them."""
        return [(evt.EVT_N_EVENT_REPORT, self._hear)]

    @contextmanager
    def expecting(self, transaction_uid: str) -> Iterator[None]:
        """Take the answer to a request while the block runs."""
        with self._changed:
            self._outcomes[transaction_uid] = None
        try:
            yield
        finally:
            with self._changed:
                del self._outcomes[transaction_uid]

    def wait(self, transaction_uid: str, timeout_s: float) -> Outcome | None:
        """Return the answer to a request that is expected, None if there is none in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._outcomes[transaction_uid] is not None, timeout_s)
            return self._outcomes[transaction_uid]

    def _hear(self, event: Event) -> tuple[int, None]:
        report = event.event_information
        with self._changed:
            if report.TransactionUID not in self._outcomes:
                return _PROCESSING_FAILURE, None
            failed = report.get("FailedSOPSequence") or ()
            self._outcomes[report.TransactionUID] = Outcome(
                frozenset(
                    item.ReferencedSOPInstanceUID for item in report.get("ReferencedSOPSequence") or ()
                ),
                {item.ReferencedSOPInstanceUID: int(item.FailureReason) for item in failed},
            )
            self._changed.notify_all()
        return 0x0000, None


def request_commitment(
    peer: Peer, caller: Caller, objects: Iterable[Reference], answers: Answers, timeout_s: float
) -> Outcome:
    """Ask an archive to take over objects that it has, and wait for its answer.

    Args:
        peer: the archive.
        caller: who we are; the archive may answer to the address that it knows of us.
        objects: what it should have.
        answers: a listener at that address has their contexts and handlers, see `receiving`.
        timeout_s: to wait for the answer; an archive may take its time.

    Raises:
        PacsUnreachableError: it does not answer, or its answer does not come.
        PacsError: it knows no storage commitment.
    """
    transaction_uid = generate_uid()
    with (
        answers.expecting(transaction_uid),
        association(peer, caller, [build_context(_CLASS)], answers.handlers) as opened,
    ):
        request = Dataset()
        request.TransactionUID = transaction_uid
        request.ReferencedSOPSequence = DicomSequence(_item(each.sop_uid, each.class_uid) for each in objects)
        code = code_of(opened.send_n_action(request, _REQUEST, _CLASS, _INSTANCE)[0], peer)
        if code:
            raise PacsError(f"{peer} refuses storage commitment (0x{code:04X}). Send without it.")
        outcome = answers.wait(transaction_uid, timeout_s)
    if outcome is None:
        hint = f"Check that it knows the host and port of {caller.ae_title}."
        raise PacsUnreachableError(f"{peer} gave no answer on storage commitment in {timeout_s:g} s. {hint}")
    return outcome


@dataclass
class Committer:
    """Answers requests for what lies in a spool.

    Args:
        folders: of studies, asked anew each time: their objects, STUDY/OBJECT.dcm, are safely on the disk.
        caller: who we are, where an answer needs an association of its own.
        requestors: where to answer; whoever is not among them gets the answer in its own association.
    """

    folders: Callable[[], Iterable[Path]]
    caller: Caller
    requestors: Sequence[Peer]
    _reports: dict[Association, Dataset] = field(default_factory=dict)

    @property
    def handlers(self) -> list[EventHandlerType]:
        """What a listener does with requests; the contexts are those of `Answers`."""
        return [(evt.EVT_N_ACTION, self._take), (evt.EVT_DIMSE_SENT, self._answer)]

    def _take(self, event: Event) -> tuple[int, None]:
        self._reports[event.assoc] = self._report(event.action_information)
        return 0x0000, None

    def _report(self, request: Dataset) -> Dataset:
        wanted = {item.ReferencedSOPInstanceUID: item for item in request.ReferencedSOPSequence}
        classes = _classes(self.folders(), wanted.keys())
        report, committed, failed = Dataset(), DicomSequence(), DicomSequence()
        for uid, item in wanted.items():
            if classes.get(uid) == item.ReferencedSOPClassUID:
                committed.append(_item(uid, item.ReferencedSOPClassUID))
            else:
                failed.append(_item(uid, item.ReferencedSOPClassUID))
                failed[-1].FailureReason = _ANOTHER_CLASS if uid in classes else _NO_SUCH_OBJECT
        report.TransactionUID = request.TransactionUID
        report.ReferencedSOPSequence = committed
        if failed:
            report.FailedSOPSequence = failed
        return report

    def _answer(self, event: Event) -> None:
        """Send the report after the response, which pynetdicom sends when the handler has returned."""
        if type(event.message).__name__ == "N_ACTION_RSP" and event.assoc in self._reports:
            report = self._reports.pop(event.assoc)
            threading.Thread(target=self._send, args=(event.assoc, report), daemon=True).start()

    def _send(self, asked: Association, report: Dataset) -> None:
        title = asked.requestor.ae_title
        peer = next((peer for peer in self.requestors if peer.ae_title == title), None)
        if peer is None:
            _send_report(gated(asked), report)
            return
        for wait_s in _RETRIES_S:
            time.sleep(wait_s)
            try:
                roles = [build_role(_CLASS, scp_role=True)]
                with association(peer, self.caller, [build_context(_CLASS)], roles=roles) as opened:
                    _send_report(opened, report)
                return
            except PacsError as error:
                _LOG.warning("No answer on storage commitment could be given. %s", error)


def _classes(folders: Iterable[Path], sop_uids: Collection[str]) -> dict[str, str]:
    """Return the SOP class by the UID of each of these objects that is there."""
    names, found = {f"{uid}.dcm": uid for uid in sop_uids}, dict[str, str]()
    for study in chain.from_iterable(folder.glob("*") for folder in folders):
        with suppress(OSError):  # no folder, or one that is taken elsewhere meanwhile
            for name in names.keys() & {path.name for path in study.iterdir()}:
                found[names[name]] = read_file_meta_info(study / name).MediaStorageSOPClassUID
    return found


def _item(sop_uid: str, class_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = class_uid, sop_uid
    return item


def _send_report(opened: Association, report: Dataset) -> None:
    kind = _SOME_FAILED if "FailedSOPSequence" in report else _ALL_COMMITTED
    try:
        answer = opened.send_n_event_report(report, kind, _CLASS, _INSTANCE)[0]
    except (RuntimeError, ValueError):  # the association is over
        answer = Dataset()
    if answer.get("Status") != 0:
        title = opened.remote["ae_title"]
        _LOG.warning("%r took no answer on storage commitment. Give its address with --commit-to.", title)
