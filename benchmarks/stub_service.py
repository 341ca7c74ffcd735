"""A Triton service without a model: the real gRPC protocol, every image answered at once with one half.

    python benchmarks/stub_service.py      prints its address, and ends with its standard input

It keeps nothing and copies as little as Python allows, so that a client's own speed shows.
"""

import asyncio
import struct
import sys

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from fundus_core.ensemble import (
    BUNDLE,
    ENSEMBLE_MODEL,
    FOLD_PROBABILITY,
    MANIFEST_PARAMETER,
    PREPROCESS_MODEL,
    PROBABILITY,
    QUALITY,
    EnsembleSpec,
    Fold,
    Normalise,
)
from fundus_core.preprocess import PreprocessSpec
from fundus_core.quality import MEASURES

SPEC = EnsembleSpec(
    name="no model",
    version="1",
    labels=("glaucoma",),
    preprocess=PreprocessSpec(),
    normalise=Normalise((0.0,) * 3, (1.0,) * 3),
    views=("identity",),
    folds=tuple(Fold(index, "none", (None,)) for index in range(4)),
    thresholds=(0.5,),
)
OUTPUTS = (PROBABILITY, FOLD_PROBABILITY, QUALITY, BUNDLE)
HEAD_BYTES = 1024  # a request's own words stand before the image in it


async def ready(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """Always."""
    return service_pb2.ServerReadyResponse(ready=True).SerializeToString()


async def config(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """Return as much of the ensemble's config as a client reads."""
    answer = service_pb2.ModelConfigResponse()
    answer.config.name = ENSEMBLE_MODEL
    answer.config.ensemble_scheduling.step.add(model_name=PREPROCESS_MODEL)
    answer.config.parameters[MANIFEST_PARAMETER].string_value = SPEC.to_json()
    for name in OUTPUTS:
        answer.config.output.add(name=name)
    return answer.SerializeToString()


def answer_all() -> bytes:
    """Return the one answer, without the id."""
    digest = SPEC.digest.encode()
    halves = [np.full(n, 0.5, "<f4").tobytes() for n in (1, len(SPEC.folds))]
    measures = np.full(len(MEASURES), 1000, "<f4").tobytes()
    answer = service_pb2.ModelInferResponse(
        outputs=[service_pb2.ModelInferResponse.InferOutputTensor(name=name) for name in OUTPUTS],
        raw_output_contents=[*halves, measures, struct.pack("<I", len(digest)) + digest],
    )
    return answer.SerializeToString()


ANSWER = answer_all()


async def infer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """Answer one half, with the id of the request: a SHA-256 in hex, field 3."""
    start = request.index(b"\x1a\x40", 0, HEAD_BYTES)
    return ANSWER + request[start : start + 66]


async def serve() -> None:
    """Serve until the standard input ends."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    methods = {"ServerReady": ready, "ModelConfig": config, "ModelInfer": infer}
    handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
    handler = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve())
