"""What the options of TLS refuse, before any connection."""

from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

from fundus_client.cli import main
from fundus_client.listener import Listener, Ports
from fundus_client.tls import ServerTls
from fundus_core.errors import ServerError, UsageError
from fundus_core.tls import refusal

OURS = trustme.CA()
PASSWORD = b"""-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgAAAAAAAAAAAICCAAw
-----END ENCRYPTED PRIVATE KEY-----
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the working directory: ca.pem, mine.pem and mine.key, other.key, text.pem, locked.key, eye.jpg."""
    monkeypatch.chdir(tmp_path)
    OURS.cert_pem.write_to_path("ca.pem")
    mine, other = OURS.issue_cert("127.0.0.1"), OURS.issue_cert("127.0.0.1")
    mine.cert_chain_pems[0].write_to_path("mine.pem")
    mine.private_key_pem.write_to_path("mine.key")
    other.private_key_pem.write_to_path("other.key")
    Path("text.pem").write_text("no certificate")
    Path("locked.key").write_bytes(PASSWORD)
    Path("eye.jpg").write_bytes(b"not read")


SCORE = {
    "--tls-ca none.pem": "File 'none.pem' does not exist",
    "--tls-ca text.pem": "'text.pem' holds no certificate. Give the authority's, in PEM.",
    "--tls-ca mine.key": "'mine.key' holds no certificate.",
    "--tls-cert mine.pem --tls-key mine.key": "--tls-cert needs --tls-ca",
    "--tls-ca ca.pem --tls-cert mine.pem": "--tls-cert needs --tls-key",
    "--tls-ca ca.pem --tls-key mine.key": "--tls-key needs --tls-cert",
    "--tls-ca ca.pem --tls-cert mine.pem --tls-key other.key": "'mine.pem' and 'other.key' are no",
    "--tls-ca ca.pem --tls-cert mine.key --tls-key mine.pem": "'mine.key' and 'mine.pem' are no",
    "--tls-ca ca.pem --tls-cert mine.pem --tls-key text.pem": "Give both in PEM",
    "--tls-ca ca.pem --tls-cert mine.pem --tls-key locked.key": "the key without a password",
}


@pytest.mark.parametrize("options", SCORE)
def test_score_refuses_files_and_options_that_do_not_fit(options: str) -> None:
    done = CliRunner().invoke(main, ["score", "eye.jpg", "--url", "localhost:1", *options.split()])
    assert done.exit_code == 2
    assert SCORE[options] in done.output


def test_tls_is_for_another_server() -> None:
    done = CliRunner().invoke(main, ["score", "eye.jpg", "--tls-ca", "ca.pem"])
    assert done.exit_code == 2
    assert "--tls-ca needs --url" in done.output


SERVE = {
    "--host 0.0.0.0": "0.0.0.0 is open to other computers, so it needs TLS. Give a certificate with",
    "--host localhost": "Write an IPv4 address",
    "--host ::1": "Write an IPv4 address",
    "--tls-cert mine.pem": "--tls-cert needs --tls-key",
    "--tls-client-ca ca.pem": "--tls-client-ca needs --tls-cert and --tls-key",
    "--tls-cert mine.pem --tls-key other.key": "are no certificate and its private key",
    "--tls-cert mine.pem --tls-key mine.key --tls-client-ca text.pem": "'text.pem' holds no certificate",
}


@pytest.mark.parametrize("options", SERVE)
def test_serve_refuses_files_and_options_that_do_not_fit(options: str) -> None:
    done = CliRunner().invoke(main, ["serve", *options.split()])
    assert done.exit_code == 2
    assert SERVE[options] in done.output


def test_an_address_of_another_computer_is_refused() -> None:
    listener = Listener(Ports(1024), "192.0.2.1", ServerTls(Path("mine.pem"), Path("mine.key")))
    with pytest.raises(ServerError, match=r"192\.0\.2\.1 is no address of this computer"):
        listener.check_free()


def test_every_address_of_this_computer_itself_needs_no_tls() -> None:
    assert Listener(Ports(1024), "127.0.0.2").addresses == {"grpc": "127.0.0.2:1024"}
    with pytest.raises(UsageError):
        Listener(Ports(1024), "192.0.2.1")


def test_nothing_is_said_of_a_server_that_is_not_there() -> None:
    assert refusal("127.0.0.1:1", None) is None
    assert refusal("no-such-host.invalid:1", None) is None
