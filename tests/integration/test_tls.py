"""Who may connect to the real servers, and what the others are told."""

import itertools
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.bundles import changed_copy
from tests.certificates import issue_all
from tests.conftest import COMMANDS, command
from tests.docker.conftest import ADMIN_KEY
from tests.integration.conftest import Score, scored_alone
from tests.integration.live_server import Server, tritonserver

from fundus_client.embedded import EmbeddedServer, embedded_server
from fundus_client.listener import Listener, Ports, free_port
from fundus_client.tls import ServerTls

Options = tuple[object, ...]


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return issue_all(tmp_path_factory.mktemp("pem"))


def server_tls(pem: dict[str, Path], name: str, client_ca: str | None) -> ServerTls:
    return ServerTls(pem[name], pem[f"{name} key"], pem[client_ca] if client_ca else None)


@pytest.fixture(scope="module")
def mutual(tiny_repository: Path, pem: dict[str, Path], server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """A server for the network, that asks its clients for a certificate."""
    ports = Ports(free_port(), free_port(), free_port())
    listener = Listener(ports, "0.0.0.0", server_tls(pem, "server", "ca"))  # noqa: S104 (that is the point)
    with embedded_server(tiny_repository, listener=listener) as running:
        yield running


def address(server: EmbeddedServer) -> str:
    return f"127.0.0.1:{server.listener.ports.grpc}"


def tls(pem: dict[str, Path], ca: str, client: str | None = None) -> Options:
    own = ("--tls-cert", pem[client], "--tls-key", pem[f"{client} key"]) if client else ()
    return ("--tls-ca", pem[ca], *own)


@pytest.fixture(scope="module")
def photo(phantom_folder: Path) -> Path:
    return sorted(phantom_folder.glob("*.jpg"))[0]


REFUSED = pytest.mark.parametrize(
    ("ca", "client", "said"),
    [
        ("ca", None, "asks for a certificate. Give --tls-cert"),
        ("ca", "stranger", "refuses '"),
        ("theirs", "client", "is not accepted ("),
        (None, None, "wants TLS. Give --tls-ca."),
    ],
    ids=["none", "of another authority", "trusts another authority", "no TLS"],
)


def test_a_client_with_the_right_certificate_gets_the_same_scores(
    photo: Path, score: Score, server: EmbeddedServer, mutual: EmbeddedServer, pem: dict[str, Path]
) -> None:
    done = score(photo, "--url", address(mutual), *tls(pem, "ca", "client"))
    assert done.code == 0, done.stderr
    (alone,) = scored_alone(server.grpc_address, [photo.read_bytes()])
    assert float(done.rows[0]["probability"]) == pytest.approx(alone.probability[0], abs=1e-6)


@REFUSED
def test_another_client_is_refused_at_once_with_the_next_step(
    photo: Path,
    score: Score,
    mutual: EmbeddedServer,
    pem: dict[str, Path],
    ca: str | None,
    client: str | None,
    said: str,
) -> None:
    started_s = time.monotonic()
    done = score(photo, "--url", address(mutual), *(tls(pem, ca, client) if ca else ()))
    assert time.monotonic() - started_s < 30, "the 120 s of --wait are for a server that is about to start"
    assert (done.code, done.rows) == (4, [])
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert mutual.is_alive()


def test_a_certificate_of_another_host_is_not_accepted(
    tiny_repository: Path, photo: Path, score: Score, pem: dict[str, Path], server: EmbeddedServer
) -> None:
    listener = Listener(Ports(free_port()), tls=server_tls(pem, "elsewhere", None))
    with embedded_server(tiny_repository, listener=listener) as elsewhere:
        done = score(photo, "--url", elsewhere.grpc_address, *tls(pem, "ca"))
        assert done.code == 4
        assert "certificate is not valid for '127.0.0.1'). Give" in done.stderr


def test_the_servers_own_certificate_is_authority_enough(
    tiny_repository: Path, photo: Path, score: Score, pem: dict[str, Path], server: EmbeddedServer
) -> None:
    listener = Listener(Ports(free_port()), tls=server_tls(pem, "server", None))
    with embedded_server(tiny_repository, listener=listener) as running:
        assert score(photo, "--url", running.grpc_address, *tls(pem, "server")).code == 0


def test_a_server_without_tls_says_so(
    photo: Path, score: Score, server: EmbeddedServer, pem: dict[str, Path]
) -> None:
    done = score(photo, "--url", server.grpc_address, *tls(pem, "ca"))
    assert done.code == 4
    assert "doesn't speak TLS. Leave out --tls-ca" in done.stderr


def test_only_grpc_is_open_to_the_network(mutual: EmbeddedServer) -> None:
    ports = mutual.listener.ports
    socket.create_connection(("127.0.0.2", ports.grpc), 5).close()  # reached by what listens on 0.0.0.0 only
    for port in (ports.http, ports.metrics):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port or 0), 5)


def test_serve_over_tls_is_ready_and_says_where(
    tiny_repository: Path, photo: Path, score: Score, pem: dict[str, Path], server: EmbeddedServer
) -> None:
    ports = [("--grpc-port", free_port()), ("--http-port", free_port()), ("--metrics-port", free_port())]
    own = ("--tls-cert", pem["server"], "--tls-key", pem["server key"], "--tls-client-ca", pem["ca"])
    line = [COMMANDS / "fundus-client", "serve", "--repository", tiny_repository, *own]
    line += [*itertools.chain(*ports)]
    with subprocess.Popen([*map(str, line)], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert f"at 127.0.0.1:{ports[0][1]}" in process.stderr.readline()
            done = score(photo, "--url", f"127.0.0.1:{ports[0][1]}", *tls(pem, "ca", "client"))
            assert done.code == 0, done.stderr
        finally:
            process.send_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_repository: Path,
    pem: dict[str, Path],
    server: EmbeddedServer,
) -> Iterator[tuple[Server, Path]]:
    """A server of a live repository that asks for a certificate, and another bundle for it."""
    folder = tmp_path_factory.mktemp("deployed")
    assert command("export", "deploy", tiny_repository, folder / "live").returncode == 0
    with tritonserver(folder / "live", folder / "server", server_tls(pem, "server", "ca")) as running:
        yield running, changed_copy(tiny_repository, folder / "other", 3.0)


def test_a_bundle_is_deployed_and_rolled_back_over_mutual_tls(
    deployed: tuple[Server, Path], pem: dict[str, Path]
) -> None:
    running, bundle = deployed
    options = ("--url", running.address, "--admin-key", ADMIN_KEY, *tls(pem, "ca", "client"))
    for arguments, deployment in ((("deploy", bundle), 2), (("rollback",), 3)):
        done = command("export", *arguments, running.live, *options)
        assert done.returncode == 0, done.stderr
        assert "successfully loaded 'fundus_ensemble'" in running.log.read_text()
        assert running.state.deployment == deployment


@REFUSED
def test_another_one_deploys_nothing(
    deployed: tuple[Server, Path], pem: dict[str, Path], ca: str | None, client: str | None, said: str
) -> None:
    running, bundle = deployed
    before, options = running.state, tls(pem, ca, client) if ca else ()
    done = command("export", "deploy", bundle, running.live, "--url", running.address, *options)
    assert (done.returncode, done.stdout) == (4, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert running.state == before
