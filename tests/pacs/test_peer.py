"""How a peer is written, and what is said when it does not take us."""

import time
from pathlib import Path

import pytest
from pynetdicom import build_context, evt
from tests.pacs.senders import US, listening

from fundus_client.pacs.peer import Caller, Peer, association, code_of
from fundus_client.pacs.scp import Listening, serving
from fundus_core.errors import PacsError, PacsUnreachableError, UsageError


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("ORTHANC@pacs:4242", Peer("ORTHANC", "pacs", 4242)),
        ("A B@10.0.0.1:104", Peer("A B", "10.0.0.1", 104)),
        ("PACS@[::1]:104", Peer("PACS", "::1", 104)),
        ("A@B@pacs:104", Peer("A@B", "pacs", 104)),
    ],
)
def test_a_peer_is_read_as_it_is_written(text: str, peer: Peer) -> None:
    assert Peer.parse(text) == peer
    assert str(peer) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pacs",
        "pacs:104",
        "@pacs:104",
        "A@pacs",
        "A@:104",
        "A@pacs:",
        "A@pacs:0",
        "A@pacs:65536",
        "A@pacs:+1",
        "ABCDEFGHIJKLMNOPQ@pacs:104",
        " A@pacs:104",
        "A @pacs:104",
        "A\\B@pacs:104",
        "\u00c4@pacs:104",
        "A\n@pacs:104",
    ],
)
def test_what_is_no_peer_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Peer.parse(text)


@pytest.mark.parametrize("title", ["", " ", "ABCDEFGHIJKLMNOPQ", "A\\B", "A\tB"])
def test_we_call_ourselves_nothing_that_is_no_ae_title(title: str) -> None:
    with pytest.raises(UsageError, match="no AE title"):
        Caller(title)


def test_a_peer_without_the_service_says_so(tmp_path: Path) -> None:
    find = build_context("1.2.840.10008.5.1.4.1.2.2.1")
    with (
        listening(tmp_path) as peer,
        pytest.raises(PacsError, match="accepts no kind of object or query"),
        association(peer, US, [find]),
    ):
        pass


def test_a_peer_that_stops_within_a_pdu_is_not_waited_for(tmp_path: Path) -> None:
    def stop(event: evt.Event) -> int:
        event.assoc.dul.socket.socket.sendall(b"\x04\x00\x00\x00\x10\x00half a PDU")
        time.sleep(2)
        return 0

    echo = [build_context("1.2.840.10008.1.1")]
    with serving(Listening("STUCK", port=0), echo, [(evt.EVT_C_ECHO, stop)]) as port:
        peer, began = Peer("STUCK", "127.0.0.1", port), time.monotonic()
        with (
            pytest.raises(PacsUnreachableError, match="fell silent"),
            association(peer, Caller(timeout_s=0.5), echo) as opened,
        ):
            code_of(opened.send_c_echo(), peer)
        assert time.monotonic() - began < 1.9
