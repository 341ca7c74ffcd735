"""A server for associations (an SCP), with limits on who may call and on what a caller may cost.

Associations are threads of pynetdicom. TLS is for a side-car: pynetdicom's server waits for each handshake.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from socketserver import BaseServer
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from fundus_client.listener import LOOPBACK, Listener, Ports
from fundus_client.pacs.peer import Peer, check_ae_title
from fundus_client.pacs.spool import GIB
from fundus_client.pacs.transport import cut, improve

_LOG = logging.getLogger(__name__)
_MAX_COMMAND_BYTES = 2**16
_REQUEST_S = 10.0  # from the connection to the request; whoever says nothing takes a place
_POLL_S = 0.05


@dataclass(frozen=True)
class Listening:
    """Where we listen, to whom, and what a caller may cost.

    Args:
        ae_title: ours; whoever calls another one is refused.
        host: address to listen on.
        port: TCP; 0 takes a free one.
        callers: AE titles that may call; empty: any.
        max_associations: at once; one more is told to try again later.
        max_pdu_bytes: as announced to callers; at most 1 MiB.
        max_object_bytes: whoever sends a longer object is cut off.
        timeout_s: after which a silent caller is dropped.
        min_free_bytes: of the disk, that received objects must leave.
        commit_to: where to answer requests for storage commitment; who is not among them gets the answer in
            the association that it asked in.

    Raises:
        UsageError: an AE title that cannot be one.
    """

    ae_title: str = "FUNDUS"
    host: str = LOOPBACK
    port: int = 11112
    callers: tuple[str, ...] = ()
    max_associations: int = 8
    max_pdu_bytes: int = 2**17
    max_object_bytes: int = 2**29
    timeout_s: float = 60.0
    min_free_bytes: int = GIB
    commit_to: tuple[Peer, ...] = ()

    def __post_init__(self) -> None:
        for title in (self.ae_title, *self.callers):
            check_ae_title(title)


@contextmanager
def serving(
    settings: Listening, contexts: Sequence[PresentationContext], handlers: Sequence[EventHandlerType]
) -> Iterator[int]:
    """Answer associations while the block runs; give the port.

    Raises:
        PortTakenError: another program listens there.
        ServerError: the port needs administrator rights, or the host is no address of this computer.
    """
    limits: list[EventHandlerType] = [
        (evt.EVT_PDU_RECV, _limit, [settings.max_object_bytes]),
        (evt.EVT_CONN_CLOSE, _end),
    ]
    server = _bind(settings, contexts, [*handlers, *limits])
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        BaseServer.shutdown(server)
        server.server_close()
        for association in server.active_associations:
            cut(association)
            association.abort()


def _bind(
    settings: Listening, contexts: Sequence[PresentationContext], handlers: Sequence[EventHandlerType]
) -> ThreadedAssociationServer:
    entity = AE(settings.ae_title)
    entity.require_called_aet = True
    entity.require_calling_aet = list(settings.callers)
    entity.maximum_associations = settings.max_associations
    entity.maximum_pdu_size = settings.max_pdu_bytes
    entity.dimse_timeout = entity.network_timeout = settings.timeout_s
    entity.acse_timeout = min(_REQUEST_S, settings.timeout_s)
    if settings.port:
        Listener(Ports(settings.port), settings.host).check_free()
    server: ThreadedAssociationServer = entity.make_server(
        (settings.host, settings.port),
        contexts=_Contexts(contexts),
        evt_handlers=list(handlers),
        server_class=ThreadedAssociationServer,
        request_handler=_Handler,
    )
    return server


class _Contexts(list[PresentationContext]):
    def __deepcopy__(self, memo: object) -> "_Contexts":
        """Stay the same: a copy of all, which nobody changes, would cost each association 40 ms."""
        return self


class _Handler(RequestHandler):
    def _create_association(self) -> Association:
        made = super()._create_association()
        improve(made)
        return made


def _limit(event: Event, max_object_bytes: int) -> None:
    """Cut off who sends too long an object, a command without an end, or more than it waits answers for."""
    message: Any = event.assoc.dimse.message
    if message and message.data_set.tell() > max_object_bytes:
        _LOG.warning("An object of more than %d MiB was refused.", max_object_bytes / 2**20)
    elif not (message and message.encoded_command_set.tell() > _MAX_COMMAND_BYTES) and (
        event.assoc.dimse.msg_queue.qsize() <= 1  # no asynchronous operations are negotiated
    ):
        return
    event.assoc.abort(block=False)


def _end(event: Event) -> None:
    """Let go of a caller that went away without a word, for whose request pynetdicom would wait."""
    event.assoc.dul.to_user_queue.put(None)
