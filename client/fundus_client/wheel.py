"""What the `nvidia-pytriton` wheel brings: the real tritonserver, and what it needs to start here."""

import ctypes.util
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fundus_core.errors import MissingExtraError, ServerError

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# Several images are answered at once: no library needs threads of its own for one. And the memory of each
# picture would go back to the system, and come again page by page for the next one.
_CALM = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 27),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
}


@dataclass(frozen=True)
class Wheel:
    """The server's folder in the `nvidia-pytriton` wheel, and the folders of the libraries that it loads."""

    folder: Path
    libraries: tuple[Path, ...]

    def link_backend(self, target: Path) -> None:
        """Put the Python backend and the stub for this Python side by side: the wheel keeps them apart."""
        # Links, not copies: a temporary folder may be mounted noexec.
        target.mkdir(parents=True)
        for part in (*(self.folder / "backends" / "python").iterdir(), find_stub(self.folder)):
            (target / part.name).symlink_to(part)

    def environment(self) -> dict[str, str]:
        """Return the environment in which server and stubs find their libraries and our packages."""
        # A stub embeds Python, isolated: PYTHONPATH has no effect. It takes the `python3` on PATH for its own
        # place, and so finds pyvenv.cfg, the standard library, and what is installed there, editable or not.
        folders: dict[str, Iterable[object]] = {
            "LD_LIBRARY_PATH": [*self.libraries, os.environ.get("LD_LIBRARY_PATH")],
            "PATH": [Path(sys.executable).parent, os.environ.get("PATH")],
        }
        joined = {name: os.pathsep.join(str(x) for x in values if x) for name, values in folders.items()}
        return {**os.environ, **_CALM, **joined}


def find_wheel() -> Wheel:
    """Return the wheel's server; `MissingExtraError` where it is not installed."""
    # Found, not imported: importing it takes 0.5 s and starts its logging.
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise MissingExtraError("embedded", "the bundled Triton server (nvidia-pytriton)")
    folder = Path(spec.origin).parent / "tritonserver"
    return Wheel(folder, (folder.parents[1] / "nvidia_pytriton.libs", *_libpython_folders()))


def find_stub(folder: Path) -> Path:
    """Return the stub for this Python; `ServerError` where the wheel has none."""
    stubs = folder / "python_backend_stubs"
    stub = stubs / _PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        known = sorted((path.name for path in stubs.iterdir()), key=lambda name: int(name.partition(".")[2]))
        raise ServerError(
            f"The bundled Triton server cannot run models with Python {_PYTHON}, only with "
            f"{', '.join(known)}. Install fundus-triton under one of these, or use another Triton server."
        )
    return stub


def _libpython_folders() -> list[Path]:
    """Return where this Python keeps the library that a stub embeds; nothing if the loader finds it."""
    library = f"libpython{_PYTHON}.so.1.0"
    candidates = [Path(sysconfig.get_config_var("LIBDIR") or ""), Path(sys.base_prefix, "lib")]
    folders = [folder for folder in candidates if (folder / library).is_file()][:1]
    if not folders and ctypes.util.find_library(f"python{_PYTHON}") is None:
        raise ServerError(
            f"The bundled Triton server needs {library}, and {sys.executable} comes without it. "
            f"Install it (Debian, Ubuntu: apt install libpython{_PYTHON}), or use a Python from conda or uv."
        )
    return folders
