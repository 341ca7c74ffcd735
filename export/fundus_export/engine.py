"""One ONNX file -> one TensorRT engine. Knows TensorRT's builder, and nothing of a repository.

Two packages have that builder, with one API. `tensorrt` (10 or newer) makes the plans that Triton serves, on
the GPU that will serve them. `tensorrt_rtx` needs no GPU; Triton cannot load its engines, but a graph that it
builds parses, is strongly typed and fits its profile.
"""

import gc
import importlib
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fundus_core.errors import FundusError, MissingExtraError, UsageError

Backend = Literal["tensorrt", "tensorrt_rtx"]
Shape = tuple[int, ...]

INSTEAD = "Export the ensemble again, or serve it by onnxruntime (config.pbtxt)."

_ASSERTION = re.compile(r"^Assertion failed: .*?: |^.*&& ")  # the C++ condition before the reason
_API_ERROR = re.compile(r"Error Code \d+: [\w ]+ \((.*?)(?: In \w+ at \S+)?\)$", re.MULTILINE)


class EngineError(FundusError):
    """A graph that TensorRT cannot build, for this profile or on this machine."""


@dataclass(frozen=True)
class Profile:
    """The shapes that an engine takes for its input, and the one that it is fastest at.

    Raises:
        UsageError: not 1 <= min <= opt <= max on every axis.
    """

    tensor: str
    min_shape: Shape
    opt_shape: Shape
    max_shape: Shape

    def __post_init__(self) -> None:
        low, best, high = self.shapes
        axes = zip(low, best, high, strict=False)
        if not len(low) == len(best) == len(high) or not all(1 <= a <= b <= c for a, b, c in axes):
            raise UsageError(f"A profile needs 1 <= min <= opt <= max on every axis; change {self}.")

    def __str__(self) -> str:
        return f"'{self.tensor}' min {self.min_shape} opt {self.opt_shape} max {self.max_shape}"

    @property
    def shapes(self) -> tuple[Shape, Shape, Shape]:
        """Smallest, best and largest shape."""
        return self.min_shape, self.opt_shape, self.max_shape


def load_tensorrt(backend: Backend) -> Any:
    """Return the package.

    Raises:
        MissingExtraError: it is not installed, or a library that it needs.
    """
    try:
        return importlib.import_module(backend)
    except ImportError as error:
        raise MissingExtraError(backend.replace("_", "-"), f"the package '{backend}' ({error})") from None


def build_engine(
    onnx: Path,
    plan: Path,
    profile: Profile,
    backend: Backend,
    timing_cache: Path | None = None,
    report: Callable[[float], None] = lambda share: None,
) -> None:
    """Build `plan` from the graph in `onnx`; it appears whole, or not at all.

    Args:
        onnx: a graph of one input, whose precision stays as it is: networks are strongly typed.
        plan: the file to write.
        profile: of the graph's input.
        backend: the package that builds.
        timing_cache: a file of what earlier builds measured: read where it is there, written afterwards.
        report: is told the share that is done, 0 to 1; an exception that it raises ends the build.

    Raises:
        MissingExtraError: the package is not installed.
        EngineError: the graph does not parse or does not fit the profile, or there is no GPU.
        UsageError: the plan cannot be written.
    """
    trt = load_tensorrt(backend)
    log, progress = _bound(_Log, trt.ILogger), _bound(_Progress, trt.IProgressMonitor, report)
    with _uncollected():
        builder = _builder(trt, log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)  # owns the weights until the engine is built
        _parse(parser, onnx)
        _check_fit(network, profile, onnx)
        config = _config(trt, builder, profile)
        config.progress_monitor = progress
        if timing_cache is not None:
            _read_cache(config, timing_cache)
        with _interruptible(progress):
            engine = builder.build_serialized_network(network, config)
    _check_built(engine, progress, log, onnx)
    write_whole(plan, engine)
    if timing_cache is not None:
        write_whole(timing_cache, config.get_timing_cache().serialize())
    report(1.0)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector out: where it frees an older builder, it may wait for ever.

    TensorRT holds a lock while it logs; logging runs Python, and freeing a builder takes that lock.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _builder(trt: Any, log: Any) -> Any:
    try:
        return trt.Builder(log)
    except TypeError:  # how the binding says that TensorRT gave none
        hint = "It builds on the GPU that will serve: does `nvidia-smi` show one?"
        raise EngineError(f"TensorRT did not start: {log.first_error}. {hint}") from None


def _parse(parser: Any, onnx: Path) -> None:
    try:
        content = onnx.read_bytes()
    except OSError as error:
        raise EngineError(f"'{onnx}' cannot be read ({error.strerror}). {INSTEAD}") from None
    if not parser.parse(content):
        raise EngineError(f"TensorRT cannot parse '{onnx}': {_reason(parser.get_error(0))}. {INSTEAD}")


def _reason(error: Any) -> str:
    """Return "node 52 'flip' (Slice), unsupported node: Found unsupported input type of UINT8"."""
    reason = f"{error.code().name.lower().replace('_', ' ')}: {_plain(error.desc())}"
    if error.node() < 0:
        return reason
    return f"node {error.node()} '{error.node_name()}' ({error.node_operator()}), {reason}"


def _plain(message: str) -> str:
    """Return the reason in a message of TensorRT, without the places in its code."""
    said = _API_ERROR.search(message)
    return _ASSERTION.sub("", said[1] if said else message.partition("\n")[0]).strip(' ".?')


def _check_fit(network: Any, profile: Profile, onnx: Path) -> None:
    """Refuse in sentences what the builder would refuse too."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    if [each.name for each in inputs] != [profile.tensor]:
        names = ", ".join(f"'{each.name}'" for each in inputs) or "nothing"
        raise EngineError(f"'{onnx}' takes {names}, but the profile is for {profile}. {INSTEAD}")
    shape = tuple(inputs[0].shape)
    if not all(_fits(shape, wanted) for wanted in profile.shapes):
        raise EngineError(f"'{onnx}' takes {shape}, -1 being free, but the profile is {profile}. {INSTEAD}")


def _fits(shape: Shape, wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(a in (-1, b) for a, b in zip(shape, wanted, strict=True))


def _config(trt: Any, builder: Any, profile: Profile) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # it rounds float32 like float16; who wants that exports fp16
    shapes = builder.create_optimization_profile()
    shapes.set_shape(profile.tensor, *profile.shapes)
    config.add_optimization_profile(shapes)
    return config


def _read_cache(config: Any, path: Path) -> None:
    """Give the builder its cache; an empty one where there is none, or one of another version or GPU."""
    for content in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


@contextmanager
def _interruptible(progress: "_Progress") -> Iterator[None]:
    """Let Ctrl-C end a build: raised where it arrives, in a callback, TensorRT would swallow it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: progress.end_by(KeyboardInterrupt()))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _check_built(engine: Any, progress: Any, log: Any, onnx: Path) -> None:
    if progress.failure is not None:
        raise progress.failure
    if engine is None:
        raise EngineError(f"TensorRT cannot build '{onnx}': {log.first_error}. {INSTEAD}")


def write_whole(path: Path, content: Any) -> None:
    """Write bytes, or a buffer, so that `path` holds all of them or is as it was.

    Raises:
        UsageError: the folder cannot be written, or the disk is full.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"'{path}' cannot be written ({error.strerror}). Make room, or allow it.") from None
    finally:
        partial.unlink(missing_ok=True)


def _bound(cls: type, base: type, *arguments: Any) -> Any:
    """Return a `cls` that is a `base` of TensorRT too; that is imported too late for a class statement."""
    return type(cls.__name__, (cls, base), {})(*arguments)


class _Log:
    """Keeps what went wrong; the rest is for developers of TensorRT."""

    def __init__(self) -> None:
        super().__init__()
        self._errors: list[str] = []

    @property
    def first_error(self) -> str:
        return _plain(self._errors[0]) if self._errors else "it gives no reason"

    def log(self, severity: Any, message: str) -> None:
        if severity.name in ("INTERNAL_ERROR", "ERROR"):
            self._errors.append(message)


@dataclass
class _Phase:
    done: float  # share of the whole build at which it stands
    step: float  # share that each of its steps adds


class _Progress:
    """Phases within phases, each of some steps -> one share of the build that only grows."""

    def __init__(self, report: Callable[[float], None]) -> None:
        super().__init__()
        self.failure: BaseException | None = None
        self._report = report
        self._phases: dict[str | None, _Phase] = {None: _Phase(0.0, 1.0)}
        self._share = 0.0

    def phase_start(self, name: str, parent: str | None, steps: int) -> None:
        outer = self._phases.get(parent, self._phases[None])
        self._phases[name] = _Phase(outer.done, outer.step / steps)

    def step_complete(self, name: str, step: int) -> bool:
        """Return whether to go on: an exception must not leave through TensorRT's own frames."""
        try:
            phase = self._phases[name]
            phase.done += phase.step
            self._share = max(self._share, phase.done)
            self._report(self._share)
        except BaseException as error:
            self.end_by(error)
        return self.failure is None

    def end_by(self, failure: BaseException) -> None:
        """End the build at its next step."""
        self.failure = failure

    def phase_finish(self, name: str) -> None:
        """Do nothing: the last step has said it."""
