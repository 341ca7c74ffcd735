"""What a photograph and a fold may cost, counted instead of timed."""

import json
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
from PIL import ImageFile

from fundus_core import phantoms
from fundus_core.backend import CORES, OnnxModel
from fundus_core.preprocess import PreprocessSpec, see

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


@pytest.mark.parametrize(("sharing", "at_once"), [(1, CORES), (CORES, 1)])
def test_a_fold_has_one_session_and_answers_as_many_requests_at_once_as_it_has_cores(
    sharing: int, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="a session needs the extra `embedded`")
    opened, together = list[Any](), Barrier(at_once)
    monkeypatch.setattr(onnxruntime, "InferenceSession", partial(_session, opened))
    monkeypatch.setattr(OnnxModel, "_answer", lambda model, request: together.wait(timeout=10) >= 0)
    config = json.dumps({"parameters": {"models_sharing_cores": {"string_value": str(sharing)}}})
    model = OnnxModel()
    model.initialize({"model_config": config, "model_repository": str(tmp_path), "model_version": "1"})
    (options,) = opened
    assert options.intra_op_num_threads == 1
    assert model.execute([None] * at_once) == [True] * at_once
    assert model._threads._max_workers == at_once
    model.finalize()


def _session(opened: list[Any], path: str, options: Any, providers: list[str]) -> Any:
    opened.append(options)
    return SimpleNamespace(get_inputs=list, get_outputs=list)
