"""A relay before a server, which keeps what is sent to it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress


@contextmanager
def recorded(address: str) -> Iterator[tuple[str, bytearray]]:
    """Give an address that leads to `address`, and the bytes that go there."""
    sent = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, address, sent), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", sent


def _accept(listener: socket.socket, address: str, sent: bytearray) -> None:
    host, _, port = address.rpartition(":")
    with suppress(OSError):  # the listener is closed
        while True:
            near = listener.accept()[0]
            far = socket.create_connection((host, int(port)))
            threading.Thread(target=_copy, args=(near, far, sent), daemon=True).start()
            threading.Thread(target=_copy, args=(far, near, bytearray()), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
    with suppress(OSError), closing(source), closing(target):
        while data := source.recv(65536):
            kept += data
            target.sendall(data)
