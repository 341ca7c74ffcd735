"""A model repository on disk: written from its spec, and checked against it before anything is loaded.

    manifest.json    what was trained: `EnsembleSpec`
    NOTICE.md        the terms of its weights, if they have any
    serving.json     how it is served, if not by the defaults: `Serving`
    fundus_*/        the models: weights, and what `fundus_core.configs` renders
    fundus_ensemble/golden/  images, and the answers that PyTorch and int8 graphs gave to them
    *.md             for people

Beside a fold's model.onnx a serving machine may put its own model.plan (`fundus-export tensorrt`), and with
it the record of its build, which has its digest.

Python runs what lies compiled in a folder __pycache__, without a look at the source. The embedded server, the
container and `fundus-export deploy` leave such folders out; a server that serves a repository where it lies
does not, and writes them too.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from fundus_core.configs import render
from fundus_core.ensemble import MANIFEST, EnsembleSpec, fold_model, read_manifest
from fundus_core.errors import BundleError
from fundus_core.provenance import sha256_of
from fundus_core.serving import SERVING, Serving, read_serving, serving_json

PLAN = "model.plan"
RECORD = "model.plan.json"
COMPILED = "__pycache__"
TERMS = "NOTICE.md"
MOST_NAMED = 5  # files in a message

_FRESH = "Take a fresh copy, or after a change of serving.json run `fundus-export configs`."
_NEXT_STEPS = {
    f"/{PLAN} ": "Delete the plan, or run `fundus-export tensorrt`.",
    "compiled Python": "Delete the folders __pycache__: a server that serves this folder itself writes them "
    "and runs what is in them; the embedded server and the container do not.",
}


def check_repository(repository: Path, *, in_place: bool = False) -> EnsembleSpec:
    """Return the spec of a repository in which every file is as it was exported.

    Args:
        repository: a model repository, not a live one.
        in_place: a server may serve this very folder. Else the caller leaves compiled Python out.

    Raises:
        BundleError: a file was changed, is missing, or doesn't belong there: each is named.
        UsageError: serving.json cannot be used.
    """
    spec, serving = read_manifest(repository), read_serving(repository)
    present = files_below(repository) - {MANIFEST, SERVING}
    compiled = {path for path in present if PurePosixPath(path).parent.name == COMPILED}
    said = [*complaints(spec, render(spec, serving), present - compiled, lambda path: repository / path)]
    if in_place:
        folders = sorted({PurePosixPath(path).parent.as_posix() for path in compiled})
        said += [f"{folder} holds compiled Python" for folder in folders]
    refuse(f"'{repository}'", said, " ".join(dict.fromkeys(map(_next_step, said))))
    return spec


def _next_step(complaint: str) -> str:
    return next((step for words, step in _NEXT_STEPS.items() if words in complaint), _FRESH)


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
    made_here = _made_here(spec)
    for path in sorted(present - wanted.keys()):
        if not made_here.fullmatch(path) or place(path).is_dir():  # a link to a folder would be a model
            yield f"{path} does not belong there"
        elif path.endswith(PLAN) and (problem := _about_plan(place(path))):
            yield f"{path} {problem}"


def _made_here(spec: EnsembleSpec) -> re.Pattern[str]:
    """Return what a repository may hold beside the files of its bundle; .partial was left by a kill."""
    folds = "|".join(fold_model(fold.index) for fold in spec.folds)
    return re.compile(rf"[^/]+\.md|(({folds})/1/{re.escape(PLAN)}(\.json)?|timing[^/]*\.cache)(\.partial)*")


def _about_plan(plan: Path) -> str | None:
    try:
        recorded = json.loads(plan.with_name(RECORD).read_text())["plan_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return "has no record of its build"
    return None if recorded == sha256_of(plan) else "was changed"


def refuse(where: str, complaints: Iterable[str], hint: str) -> None:
    """Do nothing where there are no complaints.

    Raises:
        BundleError: the first of them.
    """
    said = list(complaints)
    if said:
        more = f" … and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else ""
        raise BundleError(f"{where}: {', '.join(said[:MOST_NAMED])}{more}. {hint}")


def files_below(folder: Path) -> set[str]:
    """Return the path in `folder` of every file, links included."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def digests(repository: Path, paths: Iterator[Path]) -> dict[str, str]:
    """Return the SHA-256 (hex) of files of a repository by their path in it: `EnsembleSpec.files`."""
    return {path.relative_to(repository).as_posix(): _digest(path.read_bytes()) for path in paths}


def write_rendered(repository: Path, spec: EnsembleSpec, serving: Serving) -> None:
    """Write every rendered file, over those that are there; where one cannot be written, none."""
    _write_together({repository / path: text for path, text in render(spec, serving).items()})


def write_settings(repository: Path, spec: EnsembleSpec, serving: Serving) -> None:
    """Write serving.json and every file that is rendered from it; where one cannot be written, none."""
    texts = {SERVING: serving_json(serving), **render(spec, serving)}
    _write_together({repository / path: text for path, text in texts.items()})


def _write_together(texts: Mapping[Path, str]) -> None:
    partials = {path: path.with_name(f".{path.name}.partial") for path in texts}
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partials[path].write_text(text)
        for path, partial in partials.items():
            partial.replace(path)
    finally:
        for partial in partials.values():
            with suppress(OSError):  # such as: there is none any more
                partial.unlink()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
