"""A bundle in a live repository: a copy of its models, whose names end in a hash of its files.

    fundus_fold_0_1a2b3c4d/ …              models that no other bundle uses
    fundus_ensemble_1a2b3c4d/              its ensemble, by whose name the bundle is known here
    fundus_ensemble_1a2b3c4d/serving.json  its settings, if it has any: the configs are rendered from them

So the copy can be checked as the bundle can.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from fundus_core.configs import CONFIG, HEADER, render
from fundus_core.ensemble import DIGEST_PARAMETER, ENSEMBLE_MODEL, MANIFEST_PARAMETER, EnsembleSpec
from fundus_core.errors import BundleError
from fundus_core.repository import complaints, digests, files_below, refuse
from fundus_core.serving import SERVING, read_serving

N_HASH = 8  # characters
PARTIAL = f"{ENSEMBLE_MODEL}/partial"  # a server takes every folder of the root for a model
AGAIN = "Deploy into a new folder."
ITS_SERVING = f"{ENSEMBLE_MODEL}/{SERVING}"


def copy_bundle(bundle: Path, live: Path) -> str:
    """Copy the models of a bundle into a live repository; return the name of its ensemble there."""
    files = [path for path in sorted(bundle.glob("fundus_*/**/*")) if path.is_file()]
    files = [path for path in files if path.parent.name != "__pycache__"]
    content = json.dumps(digests(bundle, iter(files)), sort_keys=True)  # settings and plans count
    suffix = f"_{hashlib.sha256(content.encode()).hexdigest()[:N_HASH]}"
    partial = live / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    for path in files:
        _copy(path, _place(partial, suffix, path.relative_to(bundle).as_posix()), suffix)
    if (bundle / SERVING).exists():
        shutil.copyfile(bundle / SERVING, _place(partial, suffix, ITS_SERVING))
    for folder in partial.iterdir():
        if not (live / folder.name).exists():
            folder.replace(live / folder.name)
    shutil.rmtree(partial)
    return f"{ENSEMBLE_MODEL}{suffix}"


def _copy(path: Path, target: Path, suffix: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pbtxt":
        target.write_text(_renamed(path.read_text(), suffix))
    else:
        shutil.copyfile(path, target)
    if path.name == "model.py":  # bytecode written here would be a change: the server would load it again
        target.with_name("__pycache__").touch()


def _place(folder: Path, suffix: str, path: str) -> Path:
    """Return where a file of a bundle lies in a copy of it."""
    model, _, rest = path.partition("/")
    return folder / f"{model}{suffix}" / rest


def _renamed(text: str, suffix: str) -> str:
    config = _parsed(text)
    config.name += suffix
    for step in config.ensemble_scheduling.step:
        step.model_name += suffix
    return _text(config)


def check_copy(live: Path, model: str) -> None:
    """Refuse a bundle of which a file is not as it was deployed; plans are the serving machine's own.

    Raises:
        BundleError: a file was changed, is missing, or doesn't belong there: each is named.
        UsageError: its settings cannot be used.
    """
    suffix = model.removeprefix(ENSEMBLE_MODEL)
    spec = EnsembleSpec.from_json(_parameter(live, model, MANIFEST_PARAMETER))
    rendered = {
        path: _renamed(text, suffix) if path.endswith(".pbtxt") else text
        for path, text in render(spec, read_serving(live / model)).items()
    }
    present = {
        f"{folder.name.removesuffix(suffix)}/{path}"
        for folder in live.glob(f"fundus_*{suffix}")
        for path in files_below(folder)
        if not path.endswith("__pycache__")
    }
    said = complaints(spec, rendered, present - {ITS_SERVING}, lambda path: _place(live, suffix, path))
    refuse(f"{model} in '{live}'", said, AGAIN)


def bundle_digest(live: Path, model: str) -> str:
    """Return the digest of the bundle whose ensemble has this name."""
    return _parameter(live, model, DIGEST_PARAMETER)


def _parameter(live: Path, model: str, name: str) -> str:
    try:
        config = _parsed((live / model / CONFIG).read_text())
    except (OSError, ValueError, text_format.ParseError) as error:
        raise BundleError(f"{model}/{CONFIG} of '{live}' cannot be read ({error}). {AGAIN}") from None
    return str(config.parameters[name].string_value)


def entry_configs(live: Path, model: str) -> Iterator[tuple[str, str]]:
    """Yield path and text of the entry's configs while the bundle of this ensemble is active."""
    for path in sorted((live / model).rglob("*.pbtxt")):
        config = _parsed(path.read_text())
        config.name = ENSEMBLE_MODEL
        yield path.relative_to(live / model).as_posix(), _text(config)


def _parsed(text: str) -> triton.ModelConfig:
    return text_format.Parse(text, triton.ModelConfig())


def _text(config: triton.ModelConfig) -> str:
    return HEADER + str(text_format.MessageToString(config))
