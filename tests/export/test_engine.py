"""The real builder of TensorRT-RTX, on the CPU. That a plan answers rightly takes a GPU to see: untested."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import files_up_to
from tests.export.conftest import BATCHES, HALVED, LITE, PROFILE, REPORT, SHAPE, Exported

from fundus_core.errors import UsageError
from fundus_export import engine
from fundus_export.engine import build_engine, write_whole

trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx extra")


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
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"an older plan")
    refused = pytest.raises(UsageError, match=r"model.plan' cannot be written \(File too large\)")
    with files_up_to(4096), refused:
        write_whole(plan, bytes(8192))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an older plan"]


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
