"""The real builder of TensorRT-RTX, on the CPU. That a plan answers rightly takes a GPU to see: untested."""

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import onnx
import pytest
from onnx import TensorProto, helper
from tests.export.conftest import HALVED, LITE, REPORT, SIZE_PX, Exported

from fundus_core.errors import MissingExtraError, UsageError
from fundus_export import engine
from fundus_export.engine import EngineError, Profile, build_engine, write_whole

trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx extra")

SHAPE = (1, SIZE_PX, SIZE_PX, 3)
BATCHES = (SHAPE, (4, *SHAPE[1:]), (8, *SHAPE[1:]))
PROFILE = Profile("pixels", *BATCHES)


@pytest.fixture(scope="module")
def tiny(exported: Exported) -> Path:
    """The ONNX file of a tiny network."""
    return exported("test_efficientnet")[1]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was asked of the builder: the flags of the last network, the network, and the config."""
    found: dict[str, Any] = {}
    create_network, create_config = trt.Builder.create_network, trt.Builder.create_builder_config

    def network(builder: Any, flags: int = 0) -> Any:
        found.update(flags=flags, network=create_network(builder, flags))
        return found["network"]

    def config(builder: Any) -> Any:
        found["config"] = create_config(builder)
        return found["config"]

    monkeypatch.setattr(trt.Builder, "create_network", network)
    monkeypatch.setattr(trt.Builder, "create_builder_config", config)
    return found


def types_of(network: Any, *kinds: Any) -> set[Any]:
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    return {layer.get_output(0).dtype for layer in layers if layer.type in kinds}


@pytest.mark.parametrize(
    ("architecture", "precision"),
    [(each, "fp32") for each in (*REPORT, LITE[0])] + [(each, "fp16") for each in HALVED],
)
def test_each_family_parses_is_strongly_typed_and_fits_its_profile(
    architecture: str, precision: Any, asked: dict[str, Any], exported: Exported, tmp_path: Path
) -> None:
    path, plan = exported(architecture, precision)[1], tmp_path / "model.plan"
    build_engine(path, plan, PROFILE, "tensorrt_rtx")
    assert plan.stat().st_size > 0.9 * path.stat().st_size  # the weights are in it
    built = asked["network"]
    assert asked["flags"] == 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert built.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    computed = types_of(built, trt.LayerType.CONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    assert computed == {trt.float16 if precision == "fp16" else trt.float32}
    (pixels, probability) = (built.get_input(0), built.get_output(0))
    assert (pixels.name, pixels.dtype, tuple(pixels.shape)) == ("pixels", trt.uint8, (-1, *SHAPE[1:]))
    assert (probability.name, probability.dtype) == ("probability", trt.float32)
    assert asked["config"].num_optimization_profiles == 1


def test_float32_is_not_rounded_to_tf32(tiny: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    build_engine(tiny, tmp_path / "model.plan", PROFILE, "tensorrt_rtx")
    assert not asked["config"].get_flag(trt.BuilderFlag.TF32)


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


def test_the_share_that_is_done_grows_to_1(tiny: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    build_engine(tiny, tmp_path / "model.plan", PROFILE, "tensorrt_rtx", report=shares.append)
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.1
    assert shares[-1] == 1
    assert len(set(shares)) > 100


@pytest.mark.parametrize("when", [0, 0.5])
def test_an_interrupted_build_leaves_the_plan_as_it_was(when: float, tiny: Path, tmp_path: Path) -> None:
    plan, late = tmp_path / "model.plan", []

    def interrupt(share: float) -> None:
        if share > when:
            late.append(share)
            raise KeyboardInterrupt

    for before in (None, b"an older plan"):
        with pytest.raises(KeyboardInterrupt):
            build_engine(tiny, plan, PROFILE, "tensorrt_rtx", report=interrupt)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == (
            {} if before is None else {"model.plan": before}
        )
        plan.write_bytes(b"an older plan")
    assert len(late) == 2  # the builder went no further, either time
    assert max(late) < 1


def test_ctrl_c_ends_a_build_wherever_it_arrives(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT swallows what is raised while it logs."""
    shares: list[float] = []

    def press(log: Any, severity: Any, message: str) -> None:
        if shares:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(engine._Log, "log", press)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build_engine(tiny, tmp_path / "model.plan", PROFILE, "tensorrt_rtx", report=shares.append)
    assert shares[-1] < 1
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


FORGOTTEN = """
import gc, sys
from pathlib import Path
import tensorrt_rtx as trt
from fundus_export import engine

def log(self, severity, message):
    held.clear()
    return [[] for _ in range(9)]

engine._Log.log = log
gc.freeze()  # the collector looks at what comes now, and often
gc.set_threshold(1, 1, 1)
held = [[trt.Builder(engine._bound(engine._Log, trt.ILogger))]]
held[0].append(held[0])
profile = engine.Profile("pixels", *eval(sys.argv[3]))
engine.build_engine(Path(sys.argv[1]), Path(sys.argv[2]), profile, "tensorrt_rtx")
"""


def test_a_forgotten_builder_does_not_block_the_next_one(tiny: Path, tmp_path: Path) -> None:
    """What holds an interrupted build is freed at some time, and must not be while TensorRT logs."""
    plan = tmp_path / "model.plan"
    line = [sys.executable, "-c", FORGOTTEN, str(tiny), str(plan), repr(BATCHES)]
    subprocess.run(line, check=True, timeout=120)
    assert plan.is_file()


def test_a_plan_that_fills_the_disk_leaves_the_older_one(tmp_path: Path) -> None:
    plan, limits = tmp_path / "model.plan", resource.getrlimit(resource.RLIMIT_FSIZE)
    plan.write_bytes(b"an older plan")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UsageError, match=r"model.plan' cannot be written \(File too large\)"):
            write_whole(plan, bytes(8192))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an older plan"]


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


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the builder got as timing caches; TensorRT-RTX takes and gives them, but measures nothing."""
    given: list[bytes] = []
    create: Callable[[Any, bytes], Any] = trt.IBuilderConfig.create_timing_cache

    def spy(config: Any, content: bytes) -> Any:
        given.append(content)
        return create(config, content)

    monkeypatch.setattr(trt.IBuilderConfig, "create_timing_cache", spy)
    return given


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_timing_cache_is_written_and_read_again(tiny: Path, caches: list[bytes], tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    for _ in range(2):
        build_engine(tiny, tmp_path / "model.plan", PROFILE, "tensorrt_rtx", cache)
    assert caches == [b"", cache.read_bytes()]
    assert len(cache.read_bytes()) > 100
    assert {path.name for path in tmp_path.iterdir()} == {"timing.cache", "model.plan"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("answer", [None, "foreign"])
def test_a_timing_cache_that_the_builder_refuses_is_made_anew(
    answer: str | None, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, attach = trt.IBuilderConfig.create_timing_cache, trt.IBuilderConfig.set_timing_cache
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"of another version")
    foreign: list[Any] = []

    def spy(config: Any, content: bytes) -> Any:
        if content and answer is None:
            return None
        made = create(config, b"")
        if content:
            foreign.append(made)
        return made

    monkeypatch.setattr(trt.IBuilderConfig, "create_timing_cache", spy)
    monkeypatch.setattr(
        trt.IBuilderConfig,
        "set_timing_cache",
        lambda config, made, ignore: made not in foreign and attach(config, made, ignore),
    )
    build_engine(tiny, tmp_path / "model.plan", PROFILE, "tensorrt_rtx", cache)
    assert len(cache.read_bytes()) > 100
