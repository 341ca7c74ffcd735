"""A local gRPC service in place of tritonserver: the real protocol, with no model behind it.

It does on demand what a healthy server does rarely: answer late, out of order, with nonsense, or not at all.
"""

import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import numpy as np
from tests.conftest import bare_spec
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fundus_core.ensemble import (
    BUNDLE,
    ENSEMBLE_MODEL,
    FOLD_PROBABILITY,
    MANIFEST_PARAMETER,
    PROBABILITY,
    QUALITY,
    EnsembleSpec,
)
from fundus_core.quality import MEASURES, Quality
from fundus_core.tls import Tls

SPEC = bare_spec(2)
GOOD = Quality(**dict.fromkeys(Quality.__annotations__, 1000.0))
OUTPUTS = (PROBABILITY, FOLD_PROBABILITY, QUALITY, BUNDLE)
Answer = service_pb2.ModelInferResponse
Values = tuple[list[float], list[float]]
Behaviour = Callable[["Service", int, grpc.ServicerContext], Values | None]


def at_once(service: "Service", number: int, context: grpc.ServicerContext) -> None:
    """Answer well."""


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers file number n with probability n / 1000; `behave` may wait, abort, or return other numbers.

    The phantom of a probe is answered well.
    """

    def __init__(self, behave: Behaviour = at_once, spec: EnsembleSpec = SPEC, port: int = 0) -> None:
        self.behave, self.spec, self.port = behave, spec, port
        self.in_flight = self.most_in_flight = self.n_probes = 0
        self.served: list[int] = []
        self.asked: list[int] = []
        self.requests: list[service_pb2.ModelInferRequest] = []
        self.ended = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> "Service":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, again on the same port where it did before."""
        self.ended.clear()
        self._server = grpc.server(ThreadPoolExecutor(64))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        """Break every connection at once, as a server that is killed does."""
        self.ended.set()
        self._server.stop(None).wait()

    def ServerReady(self, request, context):  # noqa: N802 (the protocol's name)
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelConfig(self, request, context):  # noqa: N802 (the protocol's name)
        answer = service_pb2.ModelConfigResponse()
        answer.config.ensemble_scheduling.step.add(model_name="fundus_preprocess")
        answer.config.name = ENSEMBLE_MODEL
        answer.config.parameters[MANIFEST_PARAMETER].string_value = self.spec.to_json()
        for name in OUTPUTS:
            answer.config.output.add(name=name)
        return answer

    def ModelInfer(self, request, context):  # noqa: N802 (the protocol's name)
        first, is_probe = request.raw_input_contents[0][4:].split()[0], request.id == "probe"
        number = int(first) if first.isdigit() else 500
        self.n_probes += is_probe
        if not is_probe:
            self.asked.append(number)
            self.requests.append(request)
        values = None if is_probe else self._behaved(number, context)
        self.served.append(number)
        probability, folds = values or ([number / 1000], [number / 1000] * 2)
        digest = self.spec.digest.encode()
        numbers = [np.asarray(each, "<f4").tobytes() for each in (probability, folds, GOOD.vector)]
        content = [*numbers, struct.pack("<I", len(digest)) + digest]
        outputs = [Answer.InferOutputTensor(name=name) for name in OUTPUTS]
        return Answer(id=request.id, outputs=outputs, raw_output_contents=content)

    def _behaved(self, number: int, context: grpc.ServicerContext) -> Values | None:
        self._count(1)
        try:
            return self.behave(self, number, context)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self.in_flight += change
            self.most_in_flight = max(self.most_in_flight, self.in_flight)


@dataclass(frozen=True)
class At:
    """An endpoint that somebody else keeps alive."""

    url: str
    tls: Tls | None = None

    def address(self, *, anew: bool) -> str:
        return self.url


assert len(GOOD.vector) == len(MEASURES)
