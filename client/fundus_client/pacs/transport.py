"""What the sockets of pynetdicom lack: limits, and speed where both sides wait for each other."""

import socket
from contextlib import suppress

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

_MAX_PDU_BYTES = 2**20  # none is longer, not even a request for 128 contexts


class Socket(AssociationSocket):
    """A socket that refuses a length no PDU has, and reads more than 4 KiB at a time."""

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes, or fewer at the end."""
        if nr_bytes > _MAX_PDU_BYTES or self.socket is None:
            raise OSError("longer than any PDU")
        # The other side waits for our acknowledgement between a command and its data: 40 ms by default.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        data, n_read = bytearray(nr_bytes), 0
        while n_read < nr_bytes and (n_more := self.socket.recv_into(memoryview(data)[n_read:])):
            n_read += n_more
        return data[:n_read]


def improve(association: Association) -> None:
    """Give an association whose connection stands a better socket."""
    plain = association.dul.socket
    if plain is None or plain.socket is None:
        return
    plain.socket.settimeout(association.network_timeout)  # else half a PDU is waited for for ever
    plain.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as above, where we send
    plain.__class__ = Socket


def cut(association: Association) -> None:
    """Read no more from a peer: else the end would wait for the rest of a PDU."""
    opened = association.dul.socket
    if opened and opened.socket:
        with suppress(OSError):  # the peer has gone
            opened.socket.shutdown(socket.SHUT_RD)
