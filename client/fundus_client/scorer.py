"""One image, one request, one server: the Triton gRPC protocol, asynchronous."""

import asyncio
import re
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fundus_core.ensemble import (
    ADAPTIVE_MODEL,
    BUNDLE,
    BUSY,
    ENSEMBLE_MODEL,
    FOLD_PROBABILITY,
    IMAGE,
    MANIFEST_PARAMETER,
    PREPROCESS_MODEL,
    PROBABILITY,
    QUALITY,
    EnsembleSpec,
)
from fundus_core.errors import (
    IMAGE_REASONS,
    BundleError,
    ImageError,
    ImageReason,
    ServerBusyError,
    ServerError,
    ServerRefusedError,
    ServerUnreachableError,
)
from fundus_core.quality import Quality
from fundus_core.tls import Tls, refusal

POLL_S = 0.2
READY_DEADLINE_S = 5.0
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_RAW_INPUT = b"\x3a"  # field 7 of ModelInferRequest, raw_input_contents, as the wire names it
_OUTPUTS = (PROBABILITY, FOLD_PROBABILITY, QUALITY, BUNDLE)
_REASON = re.compile(rf"\b({'|'.join(IMAGE_REASONS)}): (.*)", re.DOTALL)
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.lb_policy_name", "round_robin"),  # a name of several servers: all of them, in turn
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the long pauses of a broken one
    ("grpc.enable_http_proxy", 0),  # a hospital's http_proxy is for the web, not for the server beside us
]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The ensemble's answer to one image: `probability` (K,) is the mean of `fold_probability` (F, K).

    A fold that was not asked is NaN there, and not in the mean.
    """

    probability: tuple[float, ...]
    fold_probability: tuple[tuple[float, ...], ...]
    quality: Quality


@dataclass(frozen=True)
class Scorer:
    """A connection to one server; `spec` is what that server says of its ensemble `model`."""

    spec: EnsembleSpec
    digest: str
    model: str
    timeout_s: float
    _ask: grpc.aio.UnaryUnaryMultiCallable = field(repr=False)

    async def score(self, data: bytes, request_id: str) -> Prediction:
        """Return the answer to one encoded image file; it must carry the same `request_id`.

        Raises:
            ImageError: the server refused this image.
            ServerBusyError: its queue is full; send the image again later.
            ServerUnreachableError: the connection broke, or no answer came within `timeout_s`.
            BundleError: another bundle answered than the one that was connected to.
            ServerError: any other trouble of the server.
        """
        try:
            answer = await self._ask(_request(data, request_id, self.model), timeout=self.timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _translated(error, self.timeout_s) from None
        if answer.id != request_id:
            raise ServerError("The server sent the answer to another request. Restart it and score again.")
        return self._prediction(answer)

    def _prediction(self, answer: service_pb2.ModelInferResponse) -> Prediction:
        names = (output.name for output in answer.outputs)
        content = dict(zip(names, answer.raw_output_contents, strict=True))
        if (bundle := content.get(BUNDLE, b"")[4:].decode(errors="replace")) != self.digest:
            raise BundleError(
                f"The server now answers with the bundle {bundle[:12]}, not {self.digest[:12]}."
            )
        n_folds, n_labels = len(self.spec.folds), len(self.spec.labels)
        probability = _probabilities(content.get(PROBABILITY, b""), (n_labels,))
        gaps = self.model.startswith(ADAPTIVE_MODEL)
        folds = _probabilities(content.get(FOLD_PROBABILITY, b""), (n_folds, n_labels), gaps=gaps)
        quality = _quality(content.get(QUALITY, b""))
        return Prediction(tuple(probability.tolist()), tuple(map(tuple, folds.tolist())), quality)


@asynccontextmanager
async def connect(
    address: str,
    *,
    ready_timeout_s: float,
    timeout_s: float,
    tls: Tls | None = None,
    model: str = ENSEMBLE_MODEL,
    adaptive: bool = False,
) -> AsyncIterator[Scorer]:
    """Wait until the server at "host:port" is ready, and give a scorer that knows its ensemble.

    With `adaptive` each image is answered by no more folds than its decision takes.

    Raises:
        ServerUnreachableError: not ready within `ready_timeout_s`; its subclass says that client and server
            don't agree on TLS.
        BundleError: the server serves no fundus ensemble, one of an earlier form, or with `adaptive` one that
            does not know when to stop.
    """
    async with _channel(address, tls) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await _wait_until_ready(stub, address, tls, ready_timeout_s)
        own, spec = await _read_model(stub, address, model)
        if adaptive and not spec.adaptive:
            hint = "Leave --adaptive out, or export the ensemble again."
            raise BundleError(f"Nothing shows when fewer folds of {spec.title} are enough. {hint}")
        if adaptive:
            own = own.replace(ENSEMBLE_MODEL, ADAPTIVE_MODEL)
            await _check_served(stub, address, own)
        # Bytes, not messages: else gRPC copies each image twice more.
        ask = channel.unary_unary(_METHOD, response_deserializer=service_pb2.ModelInferResponse.FromString)
        yield Scorer(spec, spec.digest, own, timeout_s, ask)


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
        answer = await stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=READY_DEADLINE_S)
    except grpc.aio.AioRpcError:
        if said := await asyncio.to_thread(refusal, address, tls):
            raise ServerRefusedError(said) from None
        return False
    return bool(answer.ready)


async def _read_model(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, address: str, model: str
) -> tuple[str, EnsembleSpec]:
    """Return the name under which the bundle behind `model` always answers, and its spec."""
    try:
        request = service_pb2.ModelConfigRequest(name=model)
        answer = await stub.ModelConfig(request, timeout=READY_DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise _translated(error, READY_DEADLINE_S) from None
        hint = "Serve a repository made by `fundus-export repository`."
        raise BundleError(f"{address} serves no {model} ({error.details()}). {hint}") from None
    missing = set(_OUTPUTS) - {output.name for output in answer.config.output}
    if missing:
        hint = "Render it again with `fundus-export configs`."
        raise BundleError(f"{model} at {address} is of an earlier form, without {', '.join(missing)}. {hint}")
    spec = EnsembleSpec.from_json(answer.config.parameters[MANIFEST_PARAMETER].string_value)
    # In a live repository each bundle has an ensemble of its own: a swap does not touch a run that has begun.
    first = answer.config.ensemble_scheduling.step[0].model_name
    return first.replace(PREPROCESS_MODEL, ENSEMBLE_MODEL), spec


async def _check_served(stub: service_pb2_grpc.GRPCInferenceServiceStub, address: str, model: str) -> None:
    try:
        answer = await stub.ModelReady(service_pb2.ModelReadyRequest(name=model), timeout=READY_DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        raise _translated(error, READY_DEADLINE_S) from None
    if not answer.ready:
        hint = f"Start it with --load-model={model} too, or leave --adaptive out."
        raise BundleError(f"{address} does not serve {model}. {hint}")


def _request(data: bytes, request_id: str, model: str) -> bytes:
    """Return a serialized ModelInferRequest, made with one copy of `data`."""
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name=IMAGE, datatype="BYTES", shape=[1, 1])
    outputs = [service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in _OUTPUTS]
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id, inputs=[tensor], outputs=outputs)
    length = len(data) + 4
    return b"".join(
        (request.SerializeToString(), _RAW_INPUT, _varint(length), struct.pack("<I", len(data)), data)
    )


def _varint(number: int) -> bytes:
    """Return a length as protobuf writes it: 7 bits a byte, the lowest first."""
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))


def _probabilities(content: bytes, shape: tuple[int, ...], *, gaps: bool = False) -> NDArray[np.float32]:
    values = np.frombuffer(content, "<f4")
    is_right = (values >= 0) & (values <= 1) | (np.isnan(values) & gaps)
    if values.size != np.prod(shape) or not is_right.all():
        raise ServerError(f"The server's answer is no {shape} of probabilities. Check its models.")
    return values.reshape(shape)


def _quality(content: bytes) -> Quality:
    try:
        return Quality.from_vector(np.frombuffer(content, "<f4"))
    except ValueError as error:
        raise ServerError(f"The server's answer is none: {error}. Check its models.") from None


def _is_busy(error: grpc.aio.AioRpcError) -> bool:
    return error.code() == grpc.StatusCode.UNAVAILABLE and any(
        words in (error.details() or "") for words in BUSY
    )


def _is_broken(error: grpc.aio.AioRpcError) -> bool:
    """Whether the server is gone or ends, or a model's process in it: that does not come back by itself."""
    dead_stub = "Stub process" in (error.details() or "")
    return dead_stub or error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def _translated(error: grpc.aio.AioRpcError, timeout_s: float) -> ImageError | BundleError | ServerError:
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.INVALID_ARGUMENT and (found := _REASON.search(details)):
        return ImageError(cast(ImageReason, found[1]), found[2])
    if code == grpc.StatusCode.NOT_FOUND:  # two deployments later
        return BundleError("The server no longer serves the bundle of this run.")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServerUnreachableError(f"No answer within {timeout_s:g} s.")
    if _is_busy(error):
        return ServerBusyError("The server's queue stayed full.")
    if _is_broken(error):
        return ServerUnreachableError("The connection to the server broke.")
    return ServerError(f"{code.name}: {details}")
