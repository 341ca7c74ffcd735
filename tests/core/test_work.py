"""What a photograph and a fold may cost, counted instead of timed."""

import json
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from threading import Barrier
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from PIL import ImageFile

from fundus_core import backend, phantoms
from fundus_core.backend import OnnxModel, PreprocessModel
from fundus_core.disc import MOST, Disc
from fundus_core.preprocess import MOST_CUT_PX, PreprocessSpec, crop_around, preprocess, see

SIDE_PX = 2000
DECODED_BYTES = SIDE_PX * SIDE_PX * 3
SPEC = PreprocessSpec(
    size_px=160, disc_crop=0.3, illumination="local_contrast"
)  # as the reference ensemble's


@pytest.fixture(scope="module")
def encoded() -> dict[str, bytes]:
    """One photograph in the format that can be decoded smaller, and in one that cannot."""
    pixels = cv2.resize(phantoms.render(0).pixels, (SIDE_PX, SIDE_PX))
    return {suffix: cv2.imencode(suffix, pixels)[1].tobytes() for suffix in (".jpg", ".bmp")}


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """Note what each call of `owner.name` is given first, from now on."""
    function, noted = getattr(owner, name), list[Any]()

    def call(*arguments: Any, **options: Any) -> Any:
        noted.append(arguments[0])
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, call)
    return noted


def peak_bytes(function: Callable[[], object]) -> int:
    """Return how much more memory arrays and Python hold at most during a call."""
    function()  # what is kept for good is there before
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_a_photograph_is_decoded_once(
    suffix: str, encoded: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_opencv = counted(monkeypatch, cv2, "imdecode")
    by_pillow = counted(monkeypatch, ImageFile.ImageFile, "load")
    see(encoded[suffix], SPEC)
    assert (len(by_opencv), len(by_pillow)) == (1, 0)


@pytest.mark.parametrize(("suffix", "most"), [(".jpg", 0.6), (".bmp", 1.6)])
def test_the_memory_of_a_photograph_is_bounded_by_its_pixels(
    suffix: str, most: float, encoded: dict[str, bytes]
) -> None:
    """A large JPEG is never there at full size; of others there is one such picture, and no copy."""
    assert peak_bytes(partial(see, encoded[suffix], SPEC)) < most * DECODED_BYTES


def test_a_strip_whose_disc_crop_is_many_times_the_picture_takes_no_more_memory_than_photographs() -> None:
    """Without dark corners it counts as a fifth of a field, which is as wide as it is long."""
    blocks = np.random.default_rng(0).integers(30, 255, (8, 130, 3), np.uint8)
    strip = cv2.resize(blocks, (13_000, 800), interpolation=cv2.INTER_NEAREST)
    cut = partial(crop_around, strip, Disc(0.5, 0.5, MOST), SPEC.disc_crop or 1, SPEC.size_px)
    assert len(cut()) == MOST_CUT_PX // SPEC.size_px * SPEC.size_px
    assert peak_bytes(partial(preprocess, strip, SPEC)) < 2 * 3 * MOST_CUT_PX**2


def test_a_fold_has_one_session_and_answers_as_many_requests_at_once_as_its_config_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="a session needs the extra `embedded`")
    opened, together = list[Any](), Barrier(3)
    monkeypatch.setattr(onnxruntime, "InferenceSession", partial(_session, opened))
    monkeypatch.setattr(OnnxModel, "_answer", lambda model, request: together.wait(timeout=10) >= 0)
    config = json.dumps({"parameters": {"at_once": {"string_value": "3"}}})
    model = OnnxModel()
    model.initialize({"model_config": config, "model_repository": "fundus_fold_0", "model_version": "1"})
    (options,) = opened
    assert options.intra_op_num_threads == 1
    assert model.execute([None] * 3) == [True] * 3
    assert model._threads._max_workers == 3
    model.finalize()


def test_an_image_that_breaks_preprocessing_fails_no_other_of_its_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No such image is known: so `see` breaks by itself here, and what the server brings is a stand-in."""
    brought = SimpleNamespace(
        get_input_tensor_by_name=lambda request, name: SimpleNamespace(
            as_numpy=lambda: np.array([[request]])
        ),
        Tensor=lambda name, value: name,
        TritonError=Mock(side_effect=lambda message, code: message),
        InferenceResponse=lambda tensors=(), error=None: error or tensors,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", brought)
    monkeypatch.setattr(backend, "see", _broken_by_b)
    texts = {"preprocess": json.dumps(asdict(PreprocessSpec())), "bundle_digest": "5a"}
    parameters = {name: {"string_value": text} for name, text in texts.items()}
    model = PreprocessModel()
    model.initialize({"model_config": json.dumps({"parameters": parameters})})
    answered = ["pixels", "quality", "bundle"]
    assert model.execute([b"a", b"b", b"c"]) == [answered, "Preprocessing failed (MemoryError).", answered]


def _broken_by_b(data: bytes, spec: PreprocessSpec) -> Any:
    if data == b"b":
        raise MemoryError
    return np.zeros((2, 2, 3)), SimpleNamespace(vector=np.zeros(6))


def _session(opened: list[Any], path: str, options: Any, providers: list[str]) -> Any:
    opened.append(options)
    return SimpleNamespace(get_inputs=list, get_outputs=list)
