"""A live repository: the folder that running servers serve, while bundles come and go.

    live.json                  which bundles are there, and which one is served: `Live`
    fundus_fold_0_1a2b3c4d/ …  the models of one bundle (`fundus_export.copies`), its ensemble among them,
    fundus_ensemble_1a2b3c4d/  which always answers with this bundle
    fundus_ensemble/7/         the entry: it answers with the active bundle. Each answer has the number of
                               the deployment that made it as its model version

A server swaps models one by one. So no two bundles share a model: a request that has begun on one bundle ends
on it, and the entry, which is the only thing that is swapped, always names the models of a single bundle.

Start a server with --model-control-mode=explicit --load-model=* --strict-readiness=false: a strict one is
"not ready" while it loads another bundle, and ever after one that it could not load.
"""

import fcntl
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from fundus_core.ensemble import ADAPTIVE_MODEL, ENSEMBLE_MODEL, LIVE, MANIFEST
from fundus_core.errors import BundleError, ServerError, UsageError
from fundus_core.files import whole_file
from fundus_core.repository import check_repository, files_below, refuse
from fundus_core.schema import build
from fundus_export.copies import AGAIN, N_HASH, bundle_digest, check_copy, copy_bundle, entry_configs
from fundus_export.server import Server

LOCK = "live.lock"
# The folders of a live repository: the entry, models whose names end in their hash, a file system's own.
OURS = re.compile(rf"{ENSEMBLE_MODEL}|fundus_\w+_[0-9a-f]{{{N_HASH}}}|lost\+found")


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

    @property
    def bundles(self) -> list[str]:
        """The bundles that are kept."""
        return [model for model in (self.active, self.previous, self.canary) if model]

    def activated(self, model: str) -> "Live":
        """Return the state in which another bundle is active; promoted, it is no canary any more."""
        if model == self.active:
            return self
        canary = None if self.canary == model else self.canary
        return Live(self.deployment + 1, model, self.active, canary)


def deploy(bundle: Path, live: Path, servers: Sequence[Server], canary: bool = False) -> Live:
    """Check a bundle, copy it into a live repository, and make it the active one, or the canary.

    All servers have loaded it before the first one swaps, so none is asked for a bundle that it doesn't know.

    Raises:
        BundleError: a file of the bundle was changed.
        ServerError: a server cannot load it. The active bundle stays active.
        UsageError: a canary with no active bundle beside it, or `live` is a bundle itself.
    """
    check_repository(bundle)
    if (live / MANIFEST).exists():
        raise UsageError(f"'{live}' is a bundle itself. Give the folder that servers serve, or a new one.")
    live.mkdir(parents=True, exist_ok=True)
    with _locked(live):
        before = read_live(live)
        if canary and not before.active:
            raise UsageError(f"'{live}' serves nothing yet. Deploy a first bundle without --canary.")
        model = copy_bundle(bundle, live)
        after = replace(before, canary=model) if canary else before.activated(model)
        return _serve(live, after, servers, swap=not canary)


def rollback(live: Path, servers: Sequence[Server], canary: bool = False) -> Live:
    """Make the previous bundle of a live repository active again, or take the canary away.

    Raises:
        UsageError: there is no previous bundle, or no canary, or `live` is no live repository.
        ServerError: a server cannot load it.
    """
    if not (live / LIVE).exists():
        raise UsageError(
            f"'{live}' is no live repository: it has no {LIVE}. `fundus-export deploy` makes one."
        )
    with _locked(live):
        before = read_live(live)
        gone = before.canary if canary else before.previous
        if not gone:
            raise UsageError(f"'{live}' has no {'canary' if canary else 'bundle before the active one'}.")
        after = replace(before, canary=None) if canary else before.activated(gone)
        return _serve(live, after, servers, swap=not canary)


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
        raise BundleError(f"{LIVE} of '{live}' cannot be read ({error}). {AGAIN}") from None
    return build(Live, data, BundleError, LIVE)


def check_live(live: Path) -> Live:
    """Return what a live repository holds, in which every file is as it was deployed.

    Raises:
        BundleError: a file was changed, is missing, or doesn't belong there.
    """
    state = read_live(live)
    strays = sorted(path.name for path in live.iterdir() if path.is_dir() and not OURS.fullmatch(path.name))
    refuse(f"'{live}'", (f"{name} does not belong there" for name in strays), "Take it away.")
    for model in state.bundles:
        check_copy(live, model)
    if state.active and not _answers_with(live, state.active):
        hint = "Deploy or roll back once more."
        raise BundleError(f"{ENSEMBLE_MODEL} in '{live}' is not that of the active bundle. {hint}")
    return state


def _answers_with(live: Path, model: str) -> bool:
    entry, wanted = live / ENSEMBLE_MODEL, dict(entry_configs(live, model))
    there = {path for path in files_below(entry) if path.endswith(".pbtxt")}
    try:
        texts = {path: (entry / path).read_bytes() for path in there}
    except OSError:
        return False
    return texts == {path: text.encode() for path, text in wanted.items()}


def described(live: Path, state: Live) -> str:
    """Return what a live repository holds, for people."""
    lines = [f"{ENSEMBLE_MODEL} is deployment {state.deployment}"]
    for name in ("active", "previous", "canary"):
        model = getattr(state, name)
        lines.append(f"{name:<10}{f'{model} {bundle_digest(live, model)}' if model else 'none'}")
    return "\n".join(lines)


@contextmanager
def _locked(live: Path) -> Iterator[None]:
    with (live / LOCK).open("a") as file:  # a file: NFS locks nothing that is not open for writing
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _serve(live: Path, after: Live, servers: Sequence[Server], swap: bool) -> Live:
    """Load what is new, then swap the entry, then let go of what nobody needs any more."""
    try:
        for server, model in product(servers, (after.active, after.canary)):
            if model:
                for entry in _entries(live, model):
                    server.load(entry, bundle_digest(live, model))
    except ServerError:
        _tidy(live, read_live(live), servers)
        raise
    with whole_file(live / LIVE) as partial:  # before the entry: if a swap breaks off it can be rolled back
        partial.write_text(json.dumps(asdict(after), indent=2) + "\n")
    if after.active and swap:
        _swap(live, after.active, after.deployment, servers)
    _tidy(live, after, servers)
    return after


def _entries(live: Path, model: str) -> Iterator[str]:
    """Yield the models of a bundle that clients ask; with its ensemble a server loads the others."""
    yield model
    if (live / (adaptive := model.replace(ENSEMBLE_MODEL, ADAPTIVE_MODEL))).exists():
        yield adaptive


def _swap(live: Path, model: str, deployment: int, servers: Sequence[Server]) -> None:
    entry = live / ENSEMBLE_MODEL
    for path, text in entry_configs(live, model):
        (entry / path).parent.mkdir(parents=True, exist_ok=True)
        (entry / path).write_text(text)
    (entry / str(deployment)).mkdir(exist_ok=True)
    for folder in entry.iterdir():
        if folder.name.isdigit() and folder.name != str(deployment):
            shutil.rmtree(folder)
    for server in servers:
        server.load(ENSEMBLE_MODEL, bundle_digest(live, model))


def _tidy(live: Path, kept: Live, servers: Sequence[Server]) -> None:
    """Unload and delete the models of bundles that are not kept."""
    hashes = {model[-N_HASH:] for model in kept.bundles}
    for folder in live.glob(f"fundus_*_{'?' * N_HASH}"):
        if folder.name[-N_HASH:] in hashes:
            continue
        for server in servers if folder.name.startswith((ENSEMBLE_MODEL, ADAPTIVE_MODEL)) else ():
            server.unload(folder.name)
        shutil.rmtree(folder)
