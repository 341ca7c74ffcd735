"""The models that Triton's Python backend runs; each `model.py` of the repository imports one of them.

`PreprocessModel` and `AdaptiveModel` serve everywhere. `OnnxModel` stands in for the onnxruntime backend in
the server of the PyPI wheel, which has none. Only this module may touch `triton_python_backend_utils`, which
exists inside the server alone.
"""

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fundus_core.adaptive import Stopping
from fundus_core.ensemble import (
    ADAPTIVE_MODEL,
    AT_ONCE,
    AVERAGE_MODEL,
    BUNDLE,
    BUSY,
    DIGEST_PARAMETER,
    FOLD_PROBABILITY,
    IMAGE,
    PIXELS,
    PREPROCESS_MODEL,
    PROBABILITY,
    QUALITY,
    STOPPING_PARAMETER,
    fold_model,
)
from fundus_core.errors import IMAGE_REASONS, BundleError, ImageError
from fundus_core.preprocess import FIRST_REVISION, PreprocessSpec, see
from fundus_core.schema import build


def _parameter(model_config: str, name: str) -> str:
    return str(json.loads(model_config)["parameters"][name]["string_value"])


def _refusal(message: str, code: str) -> Any:
    import triton_python_backend_utils as pb_utils

    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
    )


class PreprocessModel:
    """`image` BYTES [1] -> `pixels` UINT8 [S, S, 3], `quality` FP32 [Q] and `bundle` BYTES [1].

    On one core: further ones have further instances, for threads of one Python wait for each other.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Read spec and digest from the model's config."""
        parameter = json.loads(_parameter(args["model_config"], "preprocess"))
        self._spec = build(PreprocessSpec, FIRST_REVISION | parameter, BundleError, "preprocess")
        self._bundle = _parameter(args["model_config"], DIGEST_PARAMETER).encode()
        cv2.setNumThreads(1)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return one response per request: its pixels, or its own error."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        import triton_python_backend_utils as pb_utils

        images = pb_utils.get_input_tensor_by_name(request, IMAGE).as_numpy()  # (B, 1) of bytes
        try:
            seen = [see(data, self._spec) for data in images.reshape(-1)]
        except ImageError as error:
            return _refusal(f"{error.reason}: {error}", "INVALID_ARG")
        except Exception as error:  # it would fail the other requests of the batch too
            return _refusal(f"Preprocessing failed ({type(error).__name__}).", "INTERNAL")
        outputs = {
            PIXELS: np.stack([pixels for pixels, _ in seen]),
            QUALITY: np.stack([quality.vector for _, quality in seen]),
            BUNDLE: np.full(images.shape, self._bundle, object),
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(*output) for output in outputs.items()])


class OnnxModel:
    """Runs the `model.onnx` beside the importing `model.py`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Threads within an operator gain nothing on a large network, and waste most of a small one.
        options.intra_op_num_threads = 1
        self._threads = ThreadPoolExecutor(int(_parameter(args["model_config"], AT_ONCE)))
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return one response per request."""
        # Not as one: on a CPU a larger batch is no faster and needs several times the memory.
        return list(self._threads.map(self._answer, requests))

    def _answer(self, request: Any) -> Any:
        import triton_python_backend_utils as pb_utils

        feed = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
        results = zip(self._outputs, self._session.run(self._outputs, feed), strict=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in results])

    def finalize(self) -> None:
        """End the threads."""
        self._threads.shutdown()


class _RefusedError(Exception):
    """A model that was asked answered with an error: its message."""


class AdaptiveModel:
    """`image` BYTES [1] -> what the ensemble answers, but NaN for each fold that was not asked.

    `probability` is the mean of the asked folds; where all are asked it is the ensemble's, to the bit. An
    image that a model refuses has that model's error.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Read from the model's config when to stop."""
        parameter = json.loads(_parameter(args["model_config"], STOPPING_PARAMETER))
        self._stopping = build(Stopping, parameter, BundleError, STOPPING_PARAMETER)
        self._suffix = args["model_name"].removeprefix(ADAPTIVE_MODEL)  # the bundle's, in a live repository

    async def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return one response per request; they don't wait for each other."""
        return await asyncio.gather(*map(self._answer, requests))

    async def _answer(self, request: Any) -> Any:
        import triton_python_backend_utils as pb_utils

        try:
            image = pb_utils.get_input_tensor_by_name(request, IMAGE)
            pixels, *seen = await self._ask(PREPROCESS_MODEL, [image], [PIXELS, QUALITY, BUNDLE])
            return pb_utils.InferenceResponse([*await self._probabilities(pixels), *seen])
        except _RefusedError as refusal:
            return _refusal(str(refusal), code_of(str(refusal)))

    async def _probabilities(self, pixels: Any) -> list[Any]:
        """Return the tensors `probability` and `fold_probability`."""
        import triton_python_backend_utils as pb_utils

        asked: list[Any] = []  # (B, K) each
        while not asked or not self._stopping.is_decided(np.stack(asked, axis=1)).all():
            (answer,) = await self._ask(fold_model(len(asked)), [pixels], [PROBABILITY])
            asked.append(answer.as_numpy().copy())  # the tensor takes its memory with it
        if len(asked) == self._stopping.n_folds:
            each = [pb_utils.Tensor(fold_model(index), answer) for index, answer in enumerate(asked)]
            return await self._ask(AVERAGE_MODEL, each, [PROBABILITY, FOLD_PROBABILITY])
        n_left = self._stopping.n_folds - len(asked)
        folds = np.stack([*asked, *[np.full_like(asked[0], np.nan)] * n_left], axis=1)
        mean = np.mean(asked, axis=0, dtype=np.float32)
        return [pb_utils.Tensor(PROBABILITY, mean), pb_utils.Tensor(FOLD_PROBABILITY, folds)]

    async def _ask(self, model: str, inputs: list[Any], outputs: list[str]) -> list[Any]:
        import triton_python_backend_utils as pb_utils

        request = pb_utils.InferenceRequest(
            model_name=model + self._suffix,
            inputs=inputs,
            requested_output_names=outputs,
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = await request.async_exec()
        if response.has_error():
            raise _RefusedError(response.error().message())
        return [pb_utils.get_output_tensor_by_name(response, name) for name in outputs]


def code_of(message: str) -> str:
    """Return the code of an error of another model, which tritonserver 2.51 does not pass on."""
    if any(f"{reason}: " in message for reason in IMAGE_REASONS):
        return "INVALID_ARG"
    return "UNAVAILABLE" if any(words in message for words in BUSY) else "INTERNAL"
