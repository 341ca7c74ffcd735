import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fundus_core.adaptive import Adaptive
from fundus_core.ensemble import (
    MANIFEST,
    EnsembleSpec,
    Fold,
    Normalise,
    fold_model,
    read_manifest,
    write_manifest,
)
from fundus_core.errors import BundleError
from fundus_core.preprocess import PreprocessSpec

SPEC = EnsembleSpec(
    name="緑内障 test",
    version="1",
    labels=("glaucoma", "amd"),
    preprocess=PreprocessSpec(size_px=64, margin_threshold=10, centre_crop=0.95),
    normalise=Normalise((0.5, 0.4, 0.3), (0.2, 0.25, 0.125)),
    views=("identity", "hflip"),
    folds=(Fold(0, "test_vit", (0.9, None)), Fold(1, "test_vit", (0.1, 1.0))),
    thresholds=(0.5, 0.123456789),
    files={"fundus_fold_0/1/model.onnx": "a" * 64, "fundus_fold_1/1/model.onnx": "b" * 64},
    provenance={"threshold_rule": "Youden", "recipe": {"seed": 3, "views": ["identity"]}},
)
ADAPTIVE = Adaptive(0.7, 600, 400, 1.5, 0.01, 0.02, ((-0.01, -0.02, 0.0), ()))
CHANGED = {
    "name": replace(SPEC, name="other"),
    "version": replace(SPEC, version="2"),
    "labels": replace(SPEC, labels=("amd", "glaucoma")),
    "adaptive": replace(SPEC, adaptive=ADAPTIVE),
    "size": replace(SPEC, preprocess=replace(SPEC.preprocess, size_px=65)),
    "margin": replace(SPEC, preprocess=replace(SPEC.preprocess, margin_threshold=11)),
    "crop": replace(SPEC, preprocess=replace(SPEC.preprocess, centre_crop=0.96)),
    "mean": replace(SPEC, normalise=replace(SPEC.normalise, mean=(0.5, 0.4, 0.31))),
    "std": replace(SPEC, normalise=replace(SPEC.normalise, std=(0.2, 0.25, 0.126))),
    "views": replace(SPEC, views=("hflip", "identity")),
    "one fold less": replace(SPEC, folds=SPEC.folds[:1]),
    "architecture": replace(SPEC, folds=(replace(SPEC.folds[0], architecture="x"), SPEC.folds[1])),
    "precision": replace(SPEC, precision="fp16"),
    "weights": replace(SPEC, files=SPEC.files | {"fundus_fold_0/1/model.onnx": "c" * 64}),
    "fold's AUC": replace(SPEC, folds=(replace(SPEC.folds[0], oof_auc=(0.9, 0.5)), SPEC.folds[1])),
    "threshold": replace(SPEC, thresholds=(0.5, 0.12345679)),
    "provenance": replace(SPEC, provenance=SPEC.provenance | {"note": ""}),
    "provenance, deep": replace(SPEC, provenance=SPEC.provenance | {"recipe": {"seed": 4}}),
}


def backwards(value: Any) -> Any:
    """Return the same JSON value with the keys of every mapping in reverse."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(each) for each in value] if isinstance(value, list) else value


def manifest(**changes: Any) -> str:
    return json.dumps(json.loads(SPEC.to_json()) | changes)


def test_a_manifest_read_back_is_the_same_spec(tmp_path: Path) -> None:
    write_manifest(SPEC, tmp_path)
    assert read_manifest(tmp_path) == SPEC
    assert read_manifest(tmp_path).digest == SPEC.digest
    assert EnsembleSpec.from_json(SPEC.to_json()) == SPEC
    assert (tmp_path / MANIFEST).read_text().isascii()


def test_what_is_not_named_has_its_default() -> None:
    data = json.loads(SPEC.to_json())
    del data["provenance"], data["preprocess"]["centre_crop"]
    spec = EnsembleSpec.from_json(json.dumps(data))
    assert (spec.provenance, spec.preprocess.centre_crop) == ({}, 1.0)


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    text = json.dumps(backwards(json.loads(SPEC.to_json())), indent=3)
    assert text.index('"views"') < text.index('"folds"')
    assert EnsembleSpec.from_json(text).digest == SPEC.digest


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
def test_every_field_changes_the_digest(changed: EnsembleSpec) -> None:
    assert changed.digest != SPEC.digest


def test_no_two_changes_share_a_digest() -> None:
    digests = {spec.digest for spec in (SPEC, *CHANGED.values())}
    assert len(digests) == len(CHANGED) + 1
    assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in digests)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("3", "expected keys with values, got 3"),
        ("null", "expected keys with values, got None"),
        ('["name"]', "expected keys with values"),
        ("{}", "the key 'name' is missing"),
        (manifest(view=["identity"]), "unknown key 'view'. Did you mean 'views'"),
        (
            manifest(preprocess={"size": 64}),
            r"manifest.json.preprocess: unknown key 'size'. Did you mean 'size_px'",
        ),
        (manifest(preprocess={"size_px": "64"}), "preprocess.size_px: expected a whole number, got '64'"),
        (manifest(preprocess={"size_px": 3}), "preprocess: size_px is 3; choose 16 to 4096"),
        (
            manifest(preprocess={}),
            r"revision is 1, and preprocessing here is of \d+\. Export the ensemble again",
        ),
        (manifest(preprocess={"revision": 99}), "preprocess: revision is 99"),
        (manifest(preprocess=None), "preprocess: expected a table with keys of its own .*, got None"),
        (manifest(folds=[]), "Folds must be numbered from 0"),
        (manifest(folds=[{"index": 0}]), r"folds\[0\]: the key 'architecture' is missing"),
        (manifest(folds=json.loads(SPEC.to_json())["folds"][1:]), r"numbered from 0, got \[1\]"),
        (manifest(thresholds=[0.5]), "2 labels need as many thresholds, got 1"),
        (manifest(labels=[], thresholds=[]), "0 labels"),
        (manifest(thresholds=[True, 0.5]), r"thresholds\[0\]: expected a number, got True"),
        (manifest(views=["sideways"]), "views are"),
        (manifest(name=7), "name: expected text, got 7"),
    ],
)
def test_a_manifest_that_does_not_fit_is_a_bundle_error(text: str, sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence):
        EnsembleSpec.from_json(text)


@pytest.mark.parametrize("content", [None, b"\xff\xfe{}"], ids=["missing", "no text"])
def test_a_folder_without_a_readable_manifest_says_what_to_give(
    content: bytes | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"no readable manifest.json. Give a folder made by"):
        read_manifest(tmp_path)


def test_folds_have_the_names_of_the_served_models() -> None:
    assert [fold_model(fold.index) for fold in SPEC.folds] == ["fundus_fold_0", "fundus_fold_1"]


def test_a_bundle_without_a_margin_has_the_digest_that_it_had_before_there_were_any() -> None:
    assert "adaptive" not in json.loads(SPEC.to_json())
    assert EnsembleSpec.from_json(CHANGED["adaptive"].to_json()).adaptive == ADAPTIVE
