"""Ask servers how they are: reachable, trusted, ready, of one bundle, and of one opinion about a phantom."""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from fundus_client.checkup.finding import Finding, explained, unexpected
from fundus_client.member import Endpoint
from fundus_client.scorer import Prediction, Scorer, connect
from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import (
    FundusError,
    ServerBusyError,
    ServerError,
    ServerRefusedError,
    ServerUnreachableError,
)
from fundus_core.phantoms import encode, plan, render
from fundus_core.tls import Tls
from fundus_eval.parity import LIMITS

READY_S = 10.0
EXPIRES_SOON = timedelta(days=30)
SLOW = 0.25  # of the deadline: from here a run sends less at once
PROBE_S = 5.0


@dataclass(frozen=True)
class Heard:
    """What one server said; `spec` is there if it serves a fundus ensemble, `prediction` if it answered."""

    address: str
    findings: tuple[Finding, ...]
    ready: bool = True
    spec: EnsembleSpec | None = None
    prediction: Prediction | None = None


async def ask_all(endpoints: Sequence[Endpoint], timeout_s: float) -> list[Heard]:
    """Ask all servers at once, each for the answer to one phantom within `timeout_s`."""
    return await asyncio.gather(*(_ask(endpoint, timeout_s) for endpoint in endpoints))


async def _ask(endpoint: Endpoint, timeout_s: float) -> Heard:
    address, tls = endpoint.address(anew=False), endpoint.tls
    if trouble := await asyncio.to_thread(_no_connection, address):
        return Heard(address, (trouble,), ready=False)
    certificate = await asyncio.to_thread(_certificate, address, tls) if tls else None
    findings = (certificate,) if certificate else ()
    try:
        async with connect(address, ready_timeout_s=READY_S, timeout_s=timeout_s, tls=tls) as scorer:
            finding, prediction = await _answer(address, scorer)
            return Heard(address, (*findings, finding), spec=scorer.spec, prediction=prediction)
    except ServerRefusedError as error:
        return Heard(address, (*findings, explained(error)), ready=False)
    except ServerUnreachableError:
        silence = await asyncio.to_thread(_silence, address)
        return Heard(address, (*findings, silence), ready=False)
    except FundusError as error:
        finding = explained(error)
    except Exception as error:
        finding = unexpected(error)
    return Heard(address, (*findings, finding))


async def _answer(address: str, scorer: Scorer) -> tuple[Finding, Prediction | None]:
    phantom = encode(render(0).pixels, plan(0).camera)
    try:
        await scorer.score(phantom, "doctor")  # the first one may find a server that still warms up
        started_s = time.monotonic()
        prediction = await scorer.score(phantom, "doctor")
    except ServerBusyError as error:
        what = f"{address} has more to do than it can: {error}"
        return Finding("warning", what, "Wait, or add a server."), None
    except ServerError as error:
        what = f"{address} is ready, but does not answer a phantom: {error}"
        return Finding("problem", what, "Look at its log, and restart it."), None
    latency_s = time.monotonic() - started_s
    what = f"{address} serves {scorer.spec.title}; it answered a phantom in {latency_s:.2f} s"
    if latency_s < SLOW * scorer.timeout_s:
        return Finding("ok", what), prediction
    hint = "Give more --timeout, or look at what else the server does."
    return Finding("warning", f"{what}, of {scorer.timeout_s:g} s that are allowed.", hint), prediction


def compared(heard: Sequence[Heard], wanted: EnsembleSpec | None) -> Iterator[Finding]:
    """Yield whether the servers agree with each other, and with `wanted`: what they should serve."""
    ready = [(each.address, each.spec) for each in heard if each.spec]
    for address, spec in ready:
        if wanted and spec.digest != wanted.digest:
            what = f"{address} serves {spec.title}, and --repository is {wanted.title}."
            yield Finding("problem", what, "Serve that one, or give the one that is served.")
    if len({spec.digest for _, spec in ready}) > 1:
        hint = "Serve one at all of them: a run stays on the first that it meets, and leaves the others out."
        yield Finding("problem", "The servers do not serve the same bundle.", hint)
    elif len(ready) > 1:
        yield from _same_answers(ready[0][1], [each.prediction for each in heard if each.prediction])


def _same_answers(spec: EnsembleSpec, predictions: Sequence[Prediction]) -> Iterator[Finding]:
    if len(predictions) < 2:
        return
    folds = np.array([each.fold_probability for each in predictions])  # (S, F, K), S servers
    difference, limit = float(np.ptp(folds, axis=0).max()), 2 * LIMITS[spec.precision].repeat_dp
    if difference <= limit:
        yield Finding("ok", f"{len(predictions)} servers answer alike: max |dp| {difference:.1e}")
        return
    what = f"The servers answer differently: max |dp| {difference:.1e}, and the limit is {limit:.1e}."
    yield Finding(
        "problem", what, "Find the one that is wrong: fundus-client verify --url, for each of them."
    )


def _certificate(address: str, tls: Tls) -> Finding | None:
    """Return until when the server's certificate is good; None where `connect` will say what is wrong."""
    try:
        with (
            socket.create_connection(_parts(address), PROBE_S) as plain,
            tls.context().wrap_socket(plain, server_hostname=_parts(address)[0]) as secure,
        ):
            certificate = secure.getpeercert() or {}
    except OSError:
        return None
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    what = f"The certificate of {address} is good until {end:%Y-%m-%d}"
    if end > datetime.now(UTC) + EXPIRES_SOON:
        return Finding("ok", what)
    return Finding("warning", f"{what}.", "Renew it before.")


def _no_connection(address: str) -> Finding | None:
    """Return why not even a plain connection to "host:port" comes about."""
    try:
        socket.create_connection(_parts(address), PROBE_S).close()
    except socket.gaierror:
        return _unreachable(address, "there is no computer of this name", "Correct the name in --url.")
    except ConnectionRefusedError:
        hint = "Start the server, or correct --url: its gRPC port is mostly 8001."
        return _unreachable(address, "nothing listens at this port", hint)
    except OSError as error:
        hint = "Check the address, the server, and the firewalls in between."
        return _unreachable(address, error.strerror or str(error), hint)
    return None


def _silence(address: str) -> Finding:
    """Return why nobody behind "host:port" is ready over gRPC."""
    with suppress(OSError), socket.create_connection(_parts(address), PROBE_S) as plain:
        plain.sendall(b"GET /v2/health/ready HTTP/1.0\r\n\r\n")
        if plain.recv(5) == b"HTTP/":
            return _unreachable(address, "this port speaks HTTP", "Give the server's gRPC port, mostly 8001.")
    hint = "Wait until its models are loaded, or look at its log."
    return _unreachable(address, f"it listens, but is not ready after {READY_S:g} s", hint)


def _unreachable(address: str, why: str, next_step: str) -> Finding:
    return Finding("problem", f"No Triton server is ready at {address}: {why}.", next_step)


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
