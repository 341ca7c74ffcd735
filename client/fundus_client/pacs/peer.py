"""Whom we talk to, and how: one association at a time, with limits, and without a word of anyone in a log."""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pydicom import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from fundus_client.pacs.gate import gated
from fundus_client.pacs.transport import improve
from fundus_core.errors import PacsError, PacsUnreachableError, UsageError
from fundus_core.tls import Tls, refusal

# pynetdicom logs identifiers, pydicom values that are wrong: names and birth dates among them.
warnings.filterwarnings("ignore", module=r"py(net)?dicom\b")
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
_config.LOG_HANDLER_LEVEL = "none"
for _name in ("pydicom", "pynetdicom"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

# PS3.5 6.2: no backslash, no control characters; spaces around mean nothing.
_AE_TITLE = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?")
_TRANSIENT = 2


@dataclass(frozen=True)
class Peer:
    """An application entity of somebody else, written "ORTHANC@host:4242".

    Raises:
        UsageError: an AE title or a port that cannot be one.
    """

    ae_title: str
    host: str
    port: int

    def __post_init__(self) -> None:
        check_ae_title(self.ae_title)
        if not self.host or not 0 < self.port < 65536:
            raise UsageError(f"{str(self)!r} is no address. Write AET@host:port, such as ORTHANC@pacs:4242.")

    @classmethod
    def parse(cls, text: str) -> "Peer":
        """Read "AET@host:port"; an IPv6 address stands in brackets.

        Raises:
            UsageError: it is written otherwise.
        """
        ae_title, at, address = text.rpartition("@")
        host, _, port = address.rpartition(":")
        if not at or not re.fullmatch(r"[0-9]{1,5}", port):
            raise UsageError(f"{text!r} is no address. Write AET@host:port, such as ORTHANC@pacs:4242.")
        return cls(ae_title, host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.address}"

    @property
    def address(self) -> str:
        """Return "host:port", an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Caller:
    """Who we are when we call a peer, and how long we wait.

    Args:
        tls: encrypt; the peer's certificate is checked against its authority.
        connect_timeout_s: for the connection, and the handshake of TLS.
        timeout_s: for each answer.
    """

    ae_title: str = "FUNDUS"
    tls: Tls | None = None
    connect_timeout_s: float = 10.0
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        check_ae_title(self.ae_title)


def check_ae_title(text: str) -> None:
    """Refuse what is no AE title.

    Raises:
        UsageError: it has no character or more than 16, one that DICOM forbids, or spaces around it.
    """
    if not _AE_TITLE.fullmatch(text):
        hint = "It has 1 to 16 characters of ASCII, no backslash, and no spaces around it."
        raise UsageError(f"{text!r} is no AE title. {hint}")


@contextmanager
def association(
    peer: Peer,
    caller: Caller,
    contexts: Sequence[PresentationContext],
    handlers: Sequence[EventHandlerType] = (),
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
) -> Iterator[Association]:
    """Give an association with `peer`: released at the end of the block, aborted where the block raises.

    Args:
        peer: whom to call.
        caller: who we are.
        contexts: 1 to 128; the peer accepts at least one of them, see `accepted_contexts`.
        handlers: for what the peer asks of us meanwhile.
        roles: where we are not the user of the service, see `pynetdicom.build_role`.

    Raises:
        PacsUnreachableError: nobody answers there in time, or the peer is too busy for now.
        PacsError: the peer refuses us, or each of `contexts`.
    """
    made = _request(peer, caller, contexts, handlers, roles)
    try:
        yield made
        made.release()
    finally:
        if made.is_established:
            made.abort()


def code_of(answer: Dataset, peer: Peer) -> int:
    """Return the status code of a DIMSE answer.

    Raises:
        PacsUnreachableError: it is empty: the peer fell silent, or is gone.
    """
    if "Status" not in answer:
        raise PacsUnreachableError(f"{peer} fell silent in the middle. Start again when it is back.")
    return int(answer.Status)


def _request(
    peer: Peer,
    caller: Caller,
    contexts: Sequence[PresentationContext],
    handlers: Sequence[EventHandlerType],
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
) -> Association:
    entity = AE(caller.ae_title)
    entity.connection_timeout = caller.connect_timeout_s
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = caller.timeout_s
    tls = (caller.tls.context(), peer.host) if caller.tls else None
    try:
        made = entity.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.ae_title,
            tls_args=tls,
            evt_handlers=[*handlers, (evt.EVT_CONN_OPEN, lambda event: improve(event.assoc))],
            ext_neg=list(roles),
        )
    except OSError:  # the name of the host is unknown
        raise PacsUnreachableError(f"Nobody knows the host of {peer}. Correct its name.") from None
    if not made.is_established:
        raise _why_not(made, peer, caller)
    return gated(made)


def _why_not(made: Association, peer: Peer, caller: Caller) -> PacsError:
    answer = made.acceptor.primitive
    if answer is None:
        hint = "Check host, port and firewall, and that the archive runs."
        why = refusal(peer.address, caller.tls) or f"Nobody answers as {peer}. {hint}"
        return PacsUnreachableError(why)
    if answer.result == _TRANSIENT:
        return PacsUnreachableError(f"{peer} is too busy ({answer.reason_str}). Try again later.")
    if answer.result:
        hint = f"Have its administrator add {caller.ae_title}, or correct the AE titles."
        return PacsError(f"{peer} refuses {caller.ae_title} ({answer.reason_str}). {hint}")
    hint = "Ask its administrator for this service."
    return PacsError(f"{peer} accepts no kind of object or query that was offered. {hint}")
