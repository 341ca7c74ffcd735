"""What `fundus-client doctor` says of servers, and that it always says what to do."""

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import grpc
import pytest
import trustme
from click.testing import CliRunner, Result
from tests.certificates import OURS
from tests.client.fakes import SPEC, Behaviour, Service, at_once
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fundus_client.checkup import consultation, doctor
from fundus_client.cli import main
from fundus_client.commands.doctor import doctor as command


class Server(Service):
    """Answers the doctor's phantom as file number `number`; with a certificate it speaks TLS."""

    def __init__(self, number: int = 500, behave: Behaviour = at_once, spec=SPEC, certificate=None) -> None:
        super().__init__(behave, spec)
        self.number, self.certificate = number, certificate

    def start(self) -> None:
        if self.certificate is None:
            return super().start()
        pair = (self.certificate.private_key_pem.bytes(), self.certificate.cert_chain_pems[0].bytes())
        self._server = grpc.server(ThreadPoolExecutor(4))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        return self._server.start()

    def ModelInfer(self, request, context):  # noqa: N802 (the protocol's name)
        request.raw_input_contents[0] = b"\0\0\0\0%d phantom" % self.number
        return super().ModelInfer(request, context)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, where the table would be written."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer is given up soon."""
    monkeypatch.setattr(consultation, "READY_S", 1.0)
    monkeypatch.setattr(consultation, "PROBE_S", 1.0)


def consult(*arguments: object) -> Result:
    done = CliRunner().invoke(command, [*map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done


def at(*servers: Service) -> list[str]:
    return [word for server in servers for word in ("--url", server.address)]


def lines(done: Result, level: str) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith(f"{level:8} ")]


def test_a_good_server_is_asked_for_a_phantom_and_nothing_is_left_behind(place: Path) -> None:
    with Server() as server:
        done = consult(*at(server))
    assert (done.exit_code, lines(done, "warning"), lines(done, "problem")) == (0, [], [])
    assert f"{server.address} serves no model 1 ({SPEC.digest[:12]}); it answered a phantom in" in done.stdout
    assert set(server.asked) == {500}
    assert list(place.iterdir()) == []


def test_json_has_every_finding() -> None:
    with Server() as server:
        found = json.loads(consult(*at(server), "--url", "127.0.0.1:1", "--json").stdout)
    assert {tuple(each) for each in found} == {("level", "what", "next_step")}
    assert [each["level"] for each in found] == ["ok", "ok", "ok", "problem"]
    assert all(bool(each["next_step"]) == (each["level"] != "ok") for each in found)


def test_a_terminal_gets_a_table_with_the_next_step_on_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    said = consult("--url", "127.0.0.1:1").stdout
    assert "\x1b[1;31mproblem\x1b[0m" in said
    plain = [line.strip() for line in click.unstyle(said).splitlines()]
    assert "Start the server, or correct --url: its gRPC port is mostly 8001." in plain


def test_one_server_that_is_away_is_a_problem_and_only_without_any_none_is_reachable() -> None:
    with Server() as server:
        assert consult(*at(server), "--url", "127.0.0.1:1").exit_code == 1
    assert consult("--url", "127.0.0.1:1").exit_code == 4


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:1", "nothing listens at this port. Start the server, or correct --url"),
        ("no-such-host.invalid:8001", "there is no computer of this name. Correct the name in --url."),
        ("[::1]:1", "nothing listens at this port."),
    ],
)
def test_an_address_without_server_says_why(url: str, said: str) -> None:
    done = consult("--url", url)
    assert done.exit_code == 4
    assert said in done.stdout


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_the_http_port_is_recognised(impatient: None) -> None:
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = consult("--url", f"127.0.0.1:{server.server_port}")
        server.shutdown()
    assert done.exit_code == 4
    assert "this port speaks HTTP. Give the server's gRPC port, mostly 8001." in done.stdout


def test_a_silent_port_does_not_hold_the_doctor_up(impatient: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        done = consult("--url", address)
    assert done.exit_code == 4
    assert f"No Triton server is ready at {address}: it listens, but" in done.stdout


def test_a_server_that_still_loads_is_told_from_one_that_is_away(
    impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Service, "ServerReady", lambda *_: service_pb2.ServerReadyResponse())
    with Server() as server:
        done = consult(*at(server))
    assert done.exit_code == 4
    assert "it listens, but is not ready after 1 s. Wait until its models are loaded" in done.stdout


def full(service: Service, number: int, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")


def broken(service: Service, number: int, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.INTERNAL, "Stub process 'fundus_fold_1' is not healthy")


def slow(service: Service, number: int, context: grpc.ServicerContext) -> None:
    time.sleep(1.2)


@pytest.mark.parametrize(
    ("behave", "level", "code", "said"),
    [
        (full, "warning", 0, "has more to do than it can: The server's queue stayed full. Wait"),
        (
            broken,
            "problem",
            1,
            "is ready, but does not answer a phantom: The connection to the server broke.",
        ),
        (slow, "warning", 0, "s, of 4 s that are allowed. Give more --timeout"),
    ],
)
def test_a_server_that_is_ready_must_answer(behave: Behaviour, level: str, code: int, said: str) -> None:
    with Server(behave=behave) as server:
        done = consult(*at(server), "--timeout", 4)
    assert done.exit_code == code
    assert said in lines(done, level)[0]


def without_ensemble(service: Service, request: object, context: object) -> object:
    config = SERVED(service, request, context)
    del config.config.ensemble_scheduling.step[:]
    return config


SERVED = Service.ModelConfig


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (lambda *_: service_pb2.ModelConfigResponse(), "is of an earlier form"),
        (without_ensemble, "A check failed (IndexError: "),
    ],
)
def test_another_program_than_ours_behind_the_port(
    monkeypatch: pytest.MonkeyPatch, config: Callable[..., object], said: str
) -> None:
    monkeypatch.setattr(Service, "ModelConfig", config)
    with Server() as server:
        done = consult(*at(server))
    assert done.exit_code == 1
    assert said in lines(done, "problem")[0]


@pytest.mark.parametrize(("other", "code"), [(500.15, 0), (500.25, 1)])
def test_servers_of_one_bundle_must_answer_alike(other: float, code: int) -> None:
    def answer(
        service: Service, number: int, context: grpc.ServicerContext
    ) -> tuple[list[float], list[float]]:
        return [other / 1000], [other / 1000] * 2

    with Server() as first, Server(behave=answer) as second:
        done = consult(*at(first, second))
    assert done.exit_code == code
    assert ("2 servers answer alike: max |dp| 1.5e-04" in done.stdout) == (code == 0)
    assert ("answer differently: max |dp| 2.5e-04, and the limit is 2.0e-04" in done.stdout) == (code == 1)


def test_servers_of_two_bundles_are_a_problem() -> None:
    with Server() as first, Server(spec=replace(SPEC, version="2")) as second:
        done = consult(*at(first, second))
    assert done.exit_code == 1
    assert len(lines(done, "problem")) == 1
    assert "The servers do not serve the same bundle. Serve one" in done.stdout


@pytest.fixture
def certificate_of(place: Path):
    OURS.cert_pem.write_to_path("ca.pem")

    def issue(days: float, host: str = "127.0.0.1") -> trustme.LeafCert:
        now = datetime.now(UTC)
        times = {"not_before": now - timedelta(days=9), "not_after": now + timedelta(days=days)}
        return OURS.issue_cert(host, **times)

    return issue


@pytest.mark.parametrize(("days", "level", "code"), [(40, "ok", 0), (29, "warning", 0), (-1, "problem", 4)])
def test_the_end_of_a_certificate_is_told_in_time(certificate_of, days: int, level: str, code: int) -> None:
    with Server(certificate=certificate_of(days)) as server:
        done = consult(*at(server), "--tls-ca", "ca.pem")
    said = next(line for line in done.stdout.splitlines() if "certificate of" in line.lower())
    assert (done.exit_code, said.split()[0]) == (code, level)
    assert ("Renew" in said) == (level != "ok")
    if days > 0:
        assert f"good until {datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}" in said


@pytest.mark.parametrize(
    ("host", "options", "said"),
    [
        ("127.0.0.1", (), "wants TLS. Give --tls-ca."),
        ("elsewhere.example", ("--tls-ca", "ca.pem"), "is not accepted"),
        (None, ("--tls-ca", "ca.pem"), "doesn't speak TLS. Leave out --tls-ca"),
    ],
)
def test_no_agreement_on_tls(certificate_of, host: str | None, options: tuple[str, ...], said: str) -> None:
    with Server(certificate=certificate_of(40, host) if host else None) as server:
        done = consult(*at(server), *options)
    assert done.exit_code == 4
    assert said in lines(done, "problem")[0]


@pytest.mark.parametrize(
    "arguments", [("--url", "localhost"), ("--timeout", "0"), ("--tls-cert", "none.pem")]
)
def test_usage_errors_are_no_findings(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, ["doctor", *arguments])
    assert done.exit_code == 2
    assert done.stdout == ""


def test_a_check_that_fails_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.machine, "software", lambda: 1 / 0)
    with Server() as server:
        done = consult(*at(server))
    assert done.exit_code == 1
    assert "A check failed (ZeroDivisionError: division by zero). Please report this." in done.stdout
    assert "it answered a phantom" in done.stdout
