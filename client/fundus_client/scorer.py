"""One image, one request: the Triton gRPC protocol, asynchronous."""

import asyncio
import re
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fundus_client.tls import Tls, refusal
from fundus_core.ensemble import (
    ENSEMBLE_MODEL,
    FOLD_PROBABILITY,
    IMAGE,
    MANIFEST_PARAMETER,
    PREPROCESS_MODEL,
    PROBABILITY,
    EnsembleSpec,
)
from fundus_core.errors import (
    IMAGE_REASONS,
    BundleError,
    ImageError,
    ImageReason,
    ServerError,
    ServerUnreachableError,
)

POLL_S = 0.2
_REASON = re.compile(rf"\b({'|'.join(IMAGE_REASONS)}): (.*)", re.DOTALL)
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.lb_policy_name", "round_robin"),  # a name of several servers: all of them, in turn
    ("grpc.enable_http_proxy", 0),  # a hospital's http_proxy is for the web, not for the server beside us
]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The ensemble's answer to one image: `probability` (K,) is the mean of `fold_probability` (F, K)."""

    probability: tuple[float, ...]
    fold_probability: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Scorer:
    """A connection to one server; `spec` is what that server says of its ensemble `model`."""

    spec: EnsembleSpec
    model: str
    timeout_s: float
    stub: service_pb2_grpc.GRPCInferenceServiceStub = field(repr=False)

    async def score(self, data: bytes, request_id: str) -> Prediction:
        """Return the answer to one encoded image file; it must carry the same `request_id`.

        Raises:
            ImageError: the server refused this image.
            ServerUnreachableError: the connection broke, or no answer came within `timeout_s`.
            ServerError: any other trouble of the server, such as a queue that stays full.
        """
        answer = await self._answer(_request(data, request_id, self.model))
        if answer.id != request_id:
            raise ServerError("The server sent the answer to another request. Restart it and score again.")
        return _prediction(answer, (len(self.spec.folds), len(self.spec.labels)))

    async def _answer(self, request: service_pb2.ModelInferRequest) -> service_pb2.ModelInferResponse:
        """Send the request, again and again while the server is busy."""
        deadline_s = time.monotonic() + self.timeout_s
        while True:
            try:
                return await self.stub.ModelInfer(request, timeout=self.timeout_s)
            except grpc.aio.AioRpcError as error:
                if not _is_busy(error) or time.monotonic() > deadline_s:
                    raise _translated(error, self.timeout_s) from None
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def connect(
    address: str,
    *,
    ready_timeout_s: float,
    timeout_s: float,
    tls: Tls | None = None,
    model: str = ENSEMBLE_MODEL,
) -> AsyncIterator[Scorer]:
    """Wait until the server at "host:port" is ready, and give a scorer that knows its ensemble.

    Raises:
        ServerUnreachableError: not ready within `ready_timeout_s`, or client and server don't agree on TLS.
        BundleError: the server serves no fundus ensemble.
    """
    async with _channel(address, tls) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await _wait_until_ready(stub, address, tls, ready_timeout_s)
        own, spec = await _read_model(stub, address, model)
        yield Scorer(spec, own, timeout_s, stub)


def _channel(address: str, tls: Tls | None) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, tls.credentials(), options=_OPTIONS)


async def _wait_until_ready(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, address: str, tls: Tls | None, timeout_s: float
) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not await _is_ready(stub, address, tls):
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        hint = "Check that it runs and that this is its gRPC port."
        raise ServerUnreachableError(f"No Triton server is ready at {address}. {hint}") from None


async def _is_ready(stub: service_pb2_grpc.GRPCInferenceServiceStub, address: str, tls: Tls | None) -> bool:
    try:
        answer = await stub.ServerReady(service_pb2.ServerReadyRequest())
    except grpc.aio.AioRpcError:
        if said := await asyncio.to_thread(refusal, address, tls):
            raise ServerUnreachableError(said) from None
        return False
    return bool(answer.ready)


async def _read_model(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, address: str, model: str
) -> tuple[str, EnsembleSpec]:
    """Return the name under which the bundle behind `model` always answers, and its spec."""
    try:
        answer = await stub.ModelConfig(service_pb2.ModelConfigRequest(name=model))
    except grpc.aio.AioRpcError as error:
        hint = "Serve a repository made by `fundus-export repository`."
        raise BundleError(f"{address} serves no {model} ({error.details()}). {hint}") from None
    spec = EnsembleSpec.from_json(answer.config.parameters[MANIFEST_PARAMETER].string_value)
    # In a live repository each bundle has an ensemble of its own: a swap does not touch a run that has begun.
    first = answer.config.ensemble_scheduling.step[0].model_name
    return first.replace(PREPROCESS_MODEL, ENSEMBLE_MODEL), spec


def _request(data: bytes, request_id: str, model: str) -> service_pb2.ModelInferRequest:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name=IMAGE, datatype="BYTES", shape=[1, 1])
    outputs = [
        service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name)
        for name in (PROBABILITY, FOLD_PROBABILITY)
    ]
    return service_pb2.ModelInferRequest(
        model_name=model,
        id=request_id,
        inputs=[tensor],
        outputs=outputs,
        raw_input_contents=[struct.pack("<I", len(data)) + data],
    )


def _prediction(answer: service_pb2.ModelInferResponse, shape: tuple[int, int]) -> Prediction:
    content = dict(zip((output.name for output in answer.outputs), answer.raw_output_contents, strict=True))
    probability = _floats(content.get(PROBABILITY, b""), (shape[1],))
    folds = _floats(content.get(FOLD_PROBABILITY, b""), shape)
    return Prediction(tuple(probability.tolist()), tuple(map(tuple, folds.tolist())))


def _floats(content: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = np.frombuffer(content, "<f4")
    if values.size != np.prod(shape) or not ((values >= 0) & (values <= 1)).all():
        raise ServerError(f"The server's answer is no {shape} of probabilities. Check its models.")
    return values.reshape(shape)


def _is_busy(error: grpc.aio.AioRpcError) -> bool:
    """Whether the queue was full, or the request waited in it for too long; the server is well."""
    said = ("queue size", "Request timeout expired")
    return error.code() == grpc.StatusCode.UNAVAILABLE and any(
        words in (error.details() or "") for words in said
    )


def _translated(error: grpc.aio.AioRpcError, timeout_s: float) -> ImageError | ServerError:
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.INVALID_ARGUMENT and (found := _REASON.search(details)):
        return ImageError(cast(ImageReason, found[1]), found[2])
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServerUnreachableError(f"No answer within {timeout_s:g} s.")
    if code == grpc.StatusCode.UNAVAILABLE and not _is_busy(error):
        return ServerUnreachableError("The connection to the server broke.")
    return ServerError(f"{code.name}: {details}")
