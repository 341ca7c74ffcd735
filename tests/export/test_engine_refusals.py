"""What the real builder of TensorRT-RTX refuses, and the sentence that says so."""

import sys
from pathlib import Path
from typing import Any, NoReturn

import onnx
import pytest
from onnx import TensorProto, helper
from tests.export.conftest import BATCHES, PROFILE, SHAPE

from fundus_core.errors import MissingExtraError, UsageError
from fundus_export import engine
from fundus_export.engine import EngineError, Profile, build_engine

trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx extra")


def graph(*nodes: onnx.NodeProto) -> bytes:
    """Return a model `pixels` -> `probability` of these nodes, checked by nobody."""
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", *SHAPE[1:]])
    probability = helper.make_tensor_value_info("probability", TensorProto.FLOAT, None)
    made = helper.make_graph(nodes, "graph", [pixels], [probability])
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString())


def cast(to: int, output: str) -> onnx.NodeProto:
    return helper.make_node("Cast", ["pixels"], [output], to=to)


def node(kind: str, *inputs: str) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, ["probability"], name="odd")


FLOAT, HALF = cast(TensorProto.FLOAT, "float"), cast(TensorProto.FLOAT16, "half")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "takes nothing, but the profile is for 'pixels'"),
        (b"no graph at all", "model deserialize failed: Failed to parse the ONNX model"),
        (
            graph(FLOAT, node("Relu", "float"))[:-20],
            "model deserialize failed: Failed to parse the ONNX model",
        ),
        (
            graph(FLOAT, node("Frobnicate", "float")),
            "node 1 'odd' (Frobnicate), invalid node: Plugin not found",
        ),
        (
            graph(FLOAT, node("StringNormalizer", "float")),
            "node 1 'odd' (StringNormalizer), unsupported node",
        ),
        (graph(node("Abs", "pixels")), "node 0 'odd' (Abs), unsupported node"),
        # what a weakly typed network would cast by itself
        (graph(FLOAT, HALF, node("Add", "float", "half")), "must have same input types"),
    ],
    ids=["empty", "text", "cut", "unknown", "unsupported", "uint8", "mixed types"],
)
def test_a_wrong_graph_is_refused_with_its_reason_in_a_sentence(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    said = refused(path, PROFILE)
    assert reason in said
    assert f"'{path}'" in said


def refused(path: Path, profile: Profile) -> str:
    """Return why no engine is built; nothing is left behind."""
    plan = path.with_name("refused.plan")
    with pytest.raises(EngineError) as caught:
        build_engine(path, plan, profile, "tensorrt_rtx")
    said = str(caught.value)
    assert not list(path.parent.glob("refused*"))
    assert said.endswith(". Export the ensemble again, or serve it by onnxruntime (config.pbtxt).")
    assert len(said.splitlines()) == 1
    assert not any(internal in said for internal in (".cpp", "_src", "Assertion", "&&"))
    return said


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "model.onnx' cannot be read (No such file or directory)" in refused(
        tmp_path / "model.onnx", PROFILE
    )


def resized(size_px: int) -> Profile:
    return Profile("pixels", *((batch, size_px, size_px, 3) for batch in (1, 4, 8)))


MISFITS = [
    (Profile("image", *BATCHES), "takes 'pixels', but the profile is for 'image'", "pixels is missing"),
    (resized(512), "takes (-1, 64, 64, 3), -1 being free, but the profile is", "profile has min=512"),
    (
        Profile("pixels", *(shape[:3] for shape in BATCHES)),
        "takes (-1, 64, 64, 3)",
        "profile 0 has 3 dimensions",
    ),
]


@pytest.mark.parametrize(("profile", "reason", "of_builder"), MISFITS, ids=["tensor", "size", "axes"])
def test_a_profile_that_does_not_fit_the_graph_is_refused(
    profile: Profile, reason: str, of_builder: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reason in refused(tiny, profile)
    monkeypatch.setattr(engine, "_check_fit", lambda *_: None)
    said = refused(tiny, profile)
    assert "TensorRT cannot build" in said
    assert of_builder in said


@pytest.mark.parametrize(
    "batches",
    [((9, 2), (8, 2), (8, 2)), ((1, 2), (9, 2), (8, 2)), ((0, 2), (1, 2), (8, 2)), ((1,), (1, 2), (1, 2))],
    ids=["min > opt", "opt > max", "0", "axes"],
)
def test_a_profile_out_of_order_is_refused(batches: tuple[Any, Any, Any]) -> None:
    with pytest.raises(UsageError, match=r"1 <= min <= opt <= max on every axis; change 'pixels' min \("):
        Profile("pixels", *batches)


def test_a_plan_that_cannot_be_written_is_a_sentence(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model.plan' cannot be written \(No such file or directory\)"):
        build_engine(tiny, tmp_path / "none" / "model.plan", PROFILE, "tensorrt_rtx")


@pytest.mark.parametrize(("backend", "extra"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx")])
def test_a_missing_package_names_its_extra(
    backend: Any, extra: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'fundus-triton\[{extra}\]'"):
        build_engine(tiny, tmp_path / "model.plan", PROFILE, backend)


def test_a_builder_that_finds_no_gpu_is_a_sentence(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_builder(_: Any) -> NoReturn:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt, "Builder", no_builder)
    with pytest.raises(EngineError, match=r"TensorRT did not start: .* does `nvidia-smi` show one"):
        build_engine(tiny, tmp_path / "model.plan", PROFILE, "tensorrt_rtx")
