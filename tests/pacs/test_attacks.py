"""What a caller may cost: places that nobody uses, commands without an end, objects not waited for."""

import socket
import struct
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="an archive needs the extra `pacs`")

from pynetdicom import build_context
from tests.pacs.conftest import OP_8_BIT, photograph
from tests.pacs.senders import US, listening, on_disk, store

from fundus_client.pacs.peer import association

COMMAND, LAST = 0x01, 0x02


def p_data(context_id: int, header: int, fragment: bytes) -> bytes:
    """Return a P-DATA-TF PDU of one fragment (PS3.8 9.3.5)."""
    value = struct.pack(">IBB", len(fragment) + 2, context_id, header) + fragment
    return struct.pack(">BBI", 0x04, 0, len(value)) + value


def test_who_goes_away_without_a_word_leaves_a_place(tmp_path: Path) -> None:
    with listening(tmp_path, timeout_s=30, max_associations=2) as peer:
        for _ in range(10):
            socket.create_connection((peer.host, peer.port), 5).close()
        assert store(peer, photograph()) == [0]


def test_a_command_without_an_end_is_cut_off(tmp_path: Path) -> None:
    with listening(tmp_path) as peer, association(peer, US, [build_context(OP_8_BIT)]) as opened:
        plain = opened.dul.socket.socket
        with pytest.raises(OSError):
            for _ in range(1000):
                plain.sendall(p_data(1, COMMAND, bytes(2**14)))
        plain.close()
    assert on_disk(tmp_path) == set()


def test_objects_that_come_faster_than_answers_end_the_association(tmp_path: Path) -> None:
    sent: list[bytes] = []
    with listening(tmp_path) as peer, association(peer, US, [build_context(OP_8_BIT)]) as opened:
        connection = opened.dul.socket
        plain, send = connection.socket, connection.send
        connection.send = lambda data: (sent.append(data), send(data))[1]
        assert opened.send_c_store(photograph(size_px=400)).Status == 0
        with pytest.raises(OSError):
            for _ in range(200):
                plain.sendall(b"".join(sent))
        plain.close()
