"""A live repository: the folder that one running server serves, while bundles come and go.

    live.json                  which bundles are there, and which one is served: `Live`
    fundus_fold_0_1a2b3c4d/ …  the models of one bundle; their names end in a hash of its files
    fundus_ensemble_1a2b3c4d/  that bundle's ensemble, which always answers with this bundle
    fundus_ensemble/7/         the entry: it answers with the active bundle. Each answer has the number of
                               the deployment that made it as its model version

A server swaps models one by one. So no two bundles share a model: a request that has begun on one bundle ends
on it, and the entry, which is the only thing that is swapped, always names the models of a single bundle.

Start the server with --model-control-mode=explicit --load-model=* --strict-readiness=false: a strict one is
"not ready" while it loads another bundle, and ever after one that it could not load.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from fundus_core.configs import CONFIG, HEADER
from fundus_core.ensemble import DIGEST_PARAMETER, ENSEMBLE_MODEL, MANIFEST
from fundus_core.errors import BundleError, ServerError, UsageError
from fundus_core.repository import check_repository, digests
from fundus_core.schema import build
from fundus_export.server import Server

LIVE = "live.json"
N_HASH = 8  # characters at the end of the names of a bundle's models
PARTIAL = f"{ENSEMBLE_MODEL}/partial"  # a server takes every folder of the root for a model


@dataclass(frozen=True)
class Live:
    """What a live repository holds; a bundle is known by the name of its ensemble.

    Args:
        deployment: grows whenever another bundle becomes active.
        active: answers for the entry.
        previous: was active before, and is kept for a rollback.
        canary: on trial beside the active one.
    """

    deployment: int = 0
    active: str | None = None
    previous: str | None = None
    canary: str | None = None

    def activated(self, model: str) -> "Live":
        """Return the state in which another bundle is active; promoted, it is no canary any more."""
        if model == self.active:
            return self
        canary = None if self.canary == model else self.canary
        return Live(self.deployment + 1, model, self.active, canary)


def deploy(bundle: Path, live: Path, server: Server | None, canary: bool = False) -> Live:
    """Check a bundle, copy it into a live repository, and make it the active one, or the canary.

    Raises:
        BundleError: a file of the bundle was changed.
        ServerError: the server cannot load it. The active bundle stays active.
        UsageError: a canary with no active bundle beside it, or `live` is a bundle itself.
    """
    check_repository(bundle)
    if (live / MANIFEST).exists():
        raise UsageError(f"'{live}' is a bundle itself. Give the folder that a server serves, or a new one.")
    live.mkdir(parents=True, exist_ok=True)
    with _locked(live):
        before = read_live(live)
        if canary and not before.active:
            raise UsageError(f"'{live}' serves nothing yet. Deploy a first bundle without --canary.")
        model = _copy(bundle, live)
        after = replace(before, canary=model) if canary else before.activated(model)
        return _serve(live, after, server, swap=not canary)


def rollback(live: Path, server: Server | None, canary: bool = False) -> Live:
    """Make the previous bundle of a live repository active again, or take the canary away.

    Raises:
        UsageError: there is no previous bundle, or no canary.
        ServerError: the server cannot load it.
    """
    with _locked(live):
        before = read_live(live)
        gone = before.canary if canary else before.previous
        if not gone:
            raise UsageError(f"'{live}' has no {'canary' if canary else 'bundle before the active one'}.")
        after = replace(before, canary=None) if canary else before.activated(gone)
        return _serve(live, after, server, swap=not canary)


def read_live(live: Path) -> Live:
    """Return what a live repository holds.

    Raises:
        BundleError: live.json cannot be read.
    """
    try:
        data = json.loads((live / LIVE).read_text())
    except FileNotFoundError:
        return Live()
    except (OSError, ValueError) as error:
        raise BundleError(f"{LIVE} of '{live}' cannot be read ({error}). Deploy into a new folder.") from None
    return build(Live, data, BundleError, LIVE)


def bundle_digest(live: Path, model: str) -> str:
    """Return the digest of the bundle whose ensemble has this name."""
    return str(_read(live / model / CONFIG).parameters[DIGEST_PARAMETER].string_value)


@contextmanager
def _locked(live: Path) -> Iterator[None]:
    descriptor = os.open(live, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _copy(bundle: Path, live: Path) -> str:
    """Copy the models of a bundle under names of their own; return the name of its ensemble."""
    files = [path for path in sorted(bundle.glob("fundus_*/**/*")) if path.is_file()]
    files = [path for path in files if path.parent.name != "__pycache__"]
    content = json.dumps(digests(bundle, iter(files)), sort_keys=True)  # settings and plans count
    suffix = f"_{hashlib.sha256(content.encode()).hexdigest()[:N_HASH]}"
    partial = live / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    for path in files:
        model, _, rest = path.relative_to(bundle).as_posix().partition("/")
        target = partial / f"{model}{suffix}" / rest
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if path.suffix == ".pbtxt":
            _write(_renamed(_read(path), suffix), target)
        if path.name == "model.py":  # bytecode written here would be a change: the server would load it again
            target.with_name("__pycache__").touch()
    for folder in partial.iterdir():
        if not (live / folder.name).exists():
            folder.replace(live / folder.name)
    shutil.rmtree(partial)
    return f"{ENSEMBLE_MODEL}{suffix}"


def _renamed(config: triton.ModelConfig, suffix: str) -> triton.ModelConfig:
    config.name += suffix
    for step in config.ensemble_scheduling.step:
        step.model_name += suffix
    return config


def _serve(live: Path, after: Live, server: Server | None, swap: bool) -> Live:
    """Load what is new, then swap the entry, then let go of what nobody needs any more."""
    try:
        for model in (after.active, after.canary):
            if server and model:
                server.load(model, bundle_digest(live, model))
    except ServerError:
        _tidy(live, read_live(live), server)
        raise
    partial = live / f"{LIVE}.partial"
    partial.write_text(json.dumps(asdict(after), indent=2) + "\n")
    partial.replace(live / LIVE)  # before the entry: a swap that breaks off here can still be rolled back
    if after.active and swap:
        _swap(live, after.active, after.deployment, server)
    _tidy(live, after, server)
    return after


def _swap(live: Path, model: str, deployment: int, server: Server | None) -> None:
    entry = live / ENSEMBLE_MODEL
    for path in (live / model).rglob("*.pbtxt"):
        config = _read(path)
        config.name = ENSEMBLE_MODEL
        _write(config, entry / path.relative_to(live / model))
    (entry / str(deployment)).mkdir(exist_ok=True)
    for path in entry.iterdir():
        if path.name.isdigit() and path.name != str(deployment):
            shutil.rmtree(path)
    if server:
        server.load(ENSEMBLE_MODEL, bundle_digest(live, model))


def _tidy(live: Path, kept: Live, server: Server | None) -> None:
    """Unload and delete the models of bundles that are not kept."""
    hashes = {model[-N_HASH:] for model in (kept.active, kept.previous, kept.canary) if model}
    for folder in live.glob(f"fundus_*_{'?' * N_HASH}"):
        if folder.name[-N_HASH:] in hashes:
            continue
        if server and folder.name.startswith(ENSEMBLE_MODEL):
            server.unload(folder.name)
        shutil.rmtree(folder)


def _read(path: Path) -> triton.ModelConfig:
    return text_format.Parse(path.read_text(), triton.ModelConfig())


def _write(config: triton.ModelConfig, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + str(text_format.MessageToString(config)))
