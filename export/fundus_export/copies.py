"""A bundle in a live repository: a copy of its models, whose names end in a hash of its files.

    fundus_fold_0_1a2b3c4d/ …              models that no other bundle uses
    fundus_ensemble_1a2b3c4d/              its ensemble, by whose name the bundle is known here
    fundus_ensemble_1a2b3c4d/serving.json  its settings, if it has any: the configs are rendered from them
    fundus_ensemble_1a2b3c4d/NOTICE.md     the terms of its weights, if they have any

So the copy can be checked as the bundle can, and its plans too: nothing is built in a live repository.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from google.protobuf import text_format

from fundus_core.configs import CONFIG, config_of, render, text_of
from fundus_core.ensemble import DIGEST_PARAMETER, ENSEMBLE_MODEL, MANIFEST_PARAMETER, EnsembleSpec
from fundus_core.errors import BundleError
from fundus_core.provenance import sha256_of
from fundus_core.repository import COMPILED, TERMS, complaints, digests, files_below, refuse
from fundus_core.serving import SERVING, read_serving

N_HASH = 8  # characters
PARTIAL = f"{ENSEMBLE_MODEL}/partial"  # a server takes every folder of the root for a model
AGAIN = "Deploy into a new folder."
BESIDE = {name: f"{ENSEMBLE_MODEL}/{name}" for name in (SERVING, TERMS)}  # in a bundle -> in its copy


def copy_bundle(bundle: Path, live: Path) -> str:
    """Copy the models of a bundle into a live repository; return the name of its ensemble there."""
    files = [path for path in sorted(bundle.glob("fundus_*/**/*")) if path.is_file()]
    files = [path for path in files if path.parent.name != COMPILED]
    suffix = _suffix(digests(bundle, iter(files)))
    made = live / PARTIAL
    shutil.rmtree(made, ignore_errors=True)
    for path in files:
        _copy(path, _place(made, suffix, path.relative_to(bundle).as_posix()), suffix)
    for name, copied in BESIDE.items():
        if (bundle / name).exists():
            shutil.copyfile(bundle / name, _place(made, suffix, copied))
    for folder in made.iterdir():
        if not (live / folder.name).exists():
            folder.replace(live / folder.name)
    shutil.rmtree(made)
    return f"{ENSEMBLE_MODEL}{suffix}"


def _suffix(content: Mapping[str, str]) -> str:
    """Return what the names of a bundle's models end in; `content` has the digest of each of its files."""
    text = json.dumps(content, sort_keys=True)  # settings, by the configs, and plans count
    return f"_{hashlib.sha256(text.encode()).hexdigest()[:N_HASH]}"


def _copy(path: Path, target: Path, suffix: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pbtxt":
        target.write_text(_renamed(path.read_text(), suffix))
    else:
        shutil.copyfile(path, target)
    if path.name == "model.py":  # bytecode written here would be a change: the server would load it again
        target.with_name(COMPILED).touch()


def _place(folder: Path, suffix: str, path: str) -> Path:
    """Return where a file of a bundle lies in a copy of it."""
    model, _, rest = path.partition("/")
    return folder / f"{model}{suffix}" / rest


def _renamed(text: str, suffix: str) -> str:
    config = config_of(text)
    config.name += suffix
    for step in config.ensemble_scheduling.step:
        step.model_name += suffix
    return text_of(config)


def check_copy(live: Path, model: str) -> None:
    """Refuse a bundle of which a file, a plan included, is not as it was deployed.

    Raises:
        BundleError: a file was changed, is missing, or doesn't belong there: each is named where that is
            certain. Or all are as each other say, but not as the name of the bundle says.
        UsageError: its settings cannot be used.
    """
    suffix = model.removeprefix(ENSEMBLE_MODEL)
    spec = EnsembleSpec.from_json(_parameter(live, model, MANIFEST_PARAMETER))
    texts, place = render(spec, read_serving(live / model)), partial(_place, live, suffix)
    present = set(_present(live, suffix)) - set(BESIDE.values())
    where, copied = f"{model} in '{live}'", dict(_copied(texts, suffix))
    refuse(where, complaints(spec, copied, present, place), AGAIN)
    plans = {path: sha256_of(place(path)) for path in present - copied.keys() - spec.files.keys()}
    rendered = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()}
    if _suffix(spec.files | rendered | plans) != suffix:
        raise BundleError(f"{where}: a plan, the settings or the manifest was changed. {AGAIN}")


def _present(live: Path, suffix: str) -> Iterator[str]:
    for folder in live.glob(f"fundus_*{suffix}"):
        yield from (f"{folder.name.removesuffix(suffix)}/{path}" for path in files_below(folder))


def _copied(texts: Mapping[str, str], suffix: str) -> Iterator[tuple[str, str]]:
    """Yield what `copy_bundle` makes of the rendered files of a bundle."""
    for path, text in texts.items():
        yield path, _renamed(text, suffix) if path.endswith(".pbtxt") else text
        if path.endswith("/model.py"):
            yield path.replace("model.py", COMPILED), ""


def bundle_digest(live: Path, model: str) -> str:
    """Return the digest of the bundle whose ensemble has this name."""
    return _parameter(live, model, DIGEST_PARAMETER)


def _parameter(live: Path, model: str, name: str) -> str:
    try:
        config = config_of((live / model / CONFIG).read_text())
    except (OSError, ValueError, text_format.ParseError) as error:
        raise BundleError(f"{model}/{CONFIG} of '{live}' cannot be read ({error}). {AGAIN}") from None
    return str(config.parameters[name].string_value)


def entry_configs(live: Path, model: str) -> Iterator[tuple[str, str]]:
    """Yield path and text of the entry's configs while the bundle of this ensemble is active."""
    for path in sorted((live / model).rglob("*.pbtxt")):
        config = config_of(path.read_text())
        config.name = ENSEMBLE_MODEL
        yield path.relative_to(live / model).as_posix(), text_of(config)
