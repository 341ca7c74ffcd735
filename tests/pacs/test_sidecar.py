"""TLS with a side-car: stunnel in front of our listener, and ours as a caller."""

import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.certificates import issue_all
from tests.pacs.conftest import photograph, program, save
from tests.pacs.senders import US, listening, on_disk, store, storescu

from fundus_client.listener import free_port
from fundus_client.pacs.peer import Peer
from fundus_core.errors import PacsUnreachableError
from fundus_core.tls import Tls


@pytest.fixture
def behind_tls(tmp_path: Path) -> Iterator[tuple[Peer, dict[str, Path]]]:
    """Our listener behind stunnel, which wants a certificate of our authority; and the files of everybody."""
    files, port, spool = issue_all(tmp_path), free_port(), tmp_path / "spool"
    with listening(spool) as peer:
        config = tmp_path / "stunnel.conf"
        config.write_text(
            f"foreground = yes\npid =\n[dicom]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{peer.port}\n"
            f"cert = {files['server']}\nkey = {files['server key']}\nCAfile = {files['ca']}\n"
            "verifyChain = yes\nsslVersionMin = TLSv1.2\n"
        )
        with subprocess.Popen([program("stunnel4"), config], stderr=subprocess.DEVNULL) as process:
            _wait_for(port)
            yield replace(peer, port=port), files
            process.kill()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("stunnel does not listen")


def test_behind_tls_only_a_certificate_of_ours_may_send(
    tmp_path: Path, behind_tls: tuple[Peer, dict[str, Path]]
) -> None:
    peer, files = behind_tls
    path = save([photograph()], tmp_path / "sent")[0]

    def send_as(name: str) -> int:
        return storescu(peer, path, "+tls", files[f"{name} key"], files[name], "+cf", files["ca"])

    with socket.create_connection((peer.host, peer.port)):  # silent: it must hold up nobody
        assert send_as("client") == 0
    assert send_as("stranger") != 0
    assert storescu(peer, path) != 0
    assert len(on_disk(tmp_path / "spool")) == 1


def test_we_call_a_peer_by_tls_and_say_why_it_fails(behind_tls: tuple[Peer, dict[str, Path]]) -> None:
    peer, files = behind_tls
    ours = Tls(files["ca"], files["client"], files["client key"])
    assert store(peer, photograph(), caller=replace(US, tls=ours)) == [0]
    for tls, sentence in (
        (None, "wants TLS. Give --tls-ca"),
        (Tls(files["theirs"], files["client"], files["client key"]), "is not accepted"),
        (Tls(files["ca"], files["stranger"], files["stranger key"]), "refuses"),
    ):
        with pytest.raises(PacsUnreachableError, match=sentence):
            store(peer, photograph(), caller=replace(US, tls=tls))
