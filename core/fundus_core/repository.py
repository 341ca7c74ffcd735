"""A model repository on disk: written from its spec, and checked against it before anything is loaded.

    manifest.json    what was trained: `EnsembleSpec`
    serving.json     how it is served, if not by the defaults: `Serving`
    fundus_*/        the models: weights, and what `fundus_core.configs` renders
    fundus_ensemble/golden/  images, and the answers that PyTorch gave to them
    *.md             for people

Beside a fold's model.onnx a serving machine may put its own model.plan (`fundus-export tensorrt`), which
carries a record of its own. Compiled Python is left aside: no server that we start loads it.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fundus_core.configs import render
from fundus_core.ensemble import MANIFEST, EnsembleSpec, read_manifest
from fundus_core.errors import BundleError
from fundus_core.serving import SERVING, Serving, read_serving

MADE_HERE = re.compile(r"[^/]+\.md|(fundus_fold_\d+/1/model\.plan(\.json)?|timing[^/]*\.cache)(\.partial)?")
MOST_NAMED = 5  # files in a message


def check_repository(repository: Path) -> EnsembleSpec:
    """Return the spec of a repository in which every file is as it was exported.

    Raises:
        BundleError: a file was changed, is missing, or doesn't belong there: each is named.
        UsageError: serving.json cannot be used.
    """
    spec, serving = read_manifest(repository), read_serving(repository)
    present = files_below(repository) - {MANIFEST, SERVING}
    hint = "Take a fresh copy, or after a change of serving.json run `fundus-export configs`."
    said = complaints(spec, render(spec, serving), present, lambda path: repository / path)
    refuse(f"'{repository}'", said, hint)
    return spec


def complaints(
    spec: EnsembleSpec, rendered: Mapping[str, str], present: set[str], place: Callable[[str], Path]
) -> Iterator[str]:
    """Yield what is wrong with each file that is not as it was exported.

    Args:
        spec: has the digests of what is not rendered.
        rendered: the text of each other file, by its path in a repository, as all paths here.
        present: the files that are there.
        place: says where a file lies.
    """
    wanted = spec.files | {path: _digest(text.encode()) for path, text in rendered.items()}
    for path, digest in sorted(wanted.items()):
        try:
            if _digest(place(path).read_bytes()) != digest:
                yield f"{path} was changed"
        except OSError:
            yield f"{path} is missing"
    for path in sorted(present - wanted.keys()):
        if not MADE_HERE.fullmatch(path):
            yield f"{path} does not belong there"


def refuse(where: str, complaints: Iterator[str], hint: str) -> None:
    """Do nothing where there are no complaints.

    Raises:
        BundleError: the first of them.
    """
    said = list(complaints)
    if said:
        more = f" … and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else ""
        raise BundleError(f"{where}: {', '.join(said[:MOST_NAMED])}{more}. {hint}")


def files_below(folder: Path) -> set[str]:
    """Return the path in `folder` of every file, links included, but for compiled Python."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.parent.name != "__pycache__" and (path.is_symlink() or not path.is_dir())
    }


def digests(repository: Path, paths: Iterator[Path]) -> dict[str, str]:
    """Return the SHA-256 (hex) of files of a repository by their path in it: `EnsembleSpec.files`."""
    return {path.relative_to(repository).as_posix(): _digest(path.read_bytes()) for path in paths}


def write_rendered(repository: Path, spec: EnsembleSpec, serving: Serving) -> None:
    """Write every rendered file, over those that are there."""
    for path, text in render(spec, serving).items():
        target = repository / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
