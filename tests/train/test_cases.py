import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import fundus_core
from fundus_core import phantoms
from fundus_core.errors import LabelsError
from fundus_core.preprocess import PreprocessSpec, preprocess, preprocess_encoded
from fundus_core.quality import MEASURES
from fundus_core.tables import LabelTable
from fundus_train import cases as cases_module
from fundus_train.cases import Cases, load_cases
from fundus_train.recipe import Network, Phantoms, PseudoLabels, Recipe

RECIPE = Recipe("x", Network("resnet18"), preprocess=PreprocessSpec(size_px=32), phantoms=Phantoms(1, 50))
NAMES = ("a.png", "sub/b.png", "c.png", "text.jpg", "gone.png", "d.png", "e.png")
PATIENTS = ("P1", "P2", "P2", "P3", "P3", "P4", "")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """a.png and sub/b.png are one file under two names; text.jpg is none; gone.png is missing."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "c.png", "d.png", "e.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
        cv2.imwrite(str(folder / name), pixels)
    (folder / "sub" / "b.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "text.jpg").write_text("no picture")
    return folder


def table(values: tuple[int, ...] = (1, 1, 0, 1, 0, -1, 0), patients: bool = True) -> LabelTable:
    return LabelTable(
        NAMES, ("glaucoma",), np.array(values, np.int8)[:, None], PATIENTS if patients else None
    )


def load(
    images: Path, labels: LabelTable | None = None, recipe: Recipe = RECIPE
) -> tuple[Cases, list[tuple[int, int]]]:
    """Load the cases; also return the ticks, one for each picture that was decoded or drawn."""
    ticks: list[tuple[int, int]] = []
    cache = images.parent / "cache"
    cases = load_cases(
        recipe, labels or table(), images, cache, lambda done, total: ticks.append((done, total))
    )
    return cases, ticks


def test_what_cannot_be_used_is_dropped_with_its_reason(images: Path) -> None:
    cases, _ = load(images)
    dropped = dict(cases.dropped)
    assert cases.image_id == ("a.png", "c.png", "e.png", "phantom-50")
    assert cases.n_real == 3
    assert list(dropped) == ["sub/b.png", "text.jpg", "gone.png", "d.png"]
    assert dropped["sub/b.png"] == "copy: the same bytes as a.png."
    assert dropped["text.jpg"].startswith("not_an_image: ")
    assert dropped["gone.png"].startswith("vanished: ")
    assert dropped["d.png"] == "unlabelled: the labels table has no label for it."


def test_a_copy_whose_label_contradicts_says_so(images: Path) -> None:
    labels = table((1, 0, 1, 0, 1, 0, 1))
    dropped = dict(load(images, labels)[0].dropped)
    assert dropped["sub/b.png"] == "copy: the same bytes as a.png, whose labels contradict these."


def test_for_pseudo_labels_unlabelled_images_stay_but_never_instead_of_a_labelled_copy(images: Path) -> None:
    recipe = replace(RECIPE, phantoms=Phantoms(), pseudo_labels=PseudoLabels(rounds=1))
    cases, _ = load(images, table((-1, 1, -1, -1, -1, -1, 0)), recipe)
    assert cases.image_id == ("sub/b.png", "c.png", "d.png", "e.png")
    assert dict(cases.dropped)["a.png"] == "copy: the same bytes as sub/b.png."
    assert load(images, table((-1, 1, -1, -1, -1, -1, 0)))[0].image_id[:2] == ("sub/b.png", "e.png")


def test_each_case_has_its_own_pixels_and_targets(images: Path) -> None:
    cases, _ = load(images)
    for i, image_id in enumerate(cases.image_id[: cases.n_real]):
        expected = preprocess_encoded((images / image_id).read_bytes(), RECIPE.preprocess)
        assert np.array_equal(cases.pixels[cases.row[i]], expected)
    drawn = phantoms.render(50)
    assert np.array_equal(cases.pixels[cases.row[-1]], preprocess(drawn.pixels, RECIPE.preprocess))
    assert cases.targets.tolist() == [[1], [0], [0], [drawn.glaucoma]]


def test_patients_who_share_a_copy_are_one(images: Path) -> None:
    cases, _ = load(images)
    patient = dict(zip(cases.image_id, cases.patient.tolist(), strict=True))
    assert patient["a.png"] == patient["c.png"]  # P1 and P2, through the copy sub/b.png
    assert len(set(patient.values())) == 3  # e.png has no patient, the phantom is one of its own


def test_a_chain_of_copies_joins_all_its_patients(images: Path) -> None:
    for copy, original in (("d.png", "c.png"), ("e.png", "d.png")):
        (images / copy).write_bytes((images / original).read_bytes())
    patients = ("P1", "P2", "P2", "P3", "P3", "P4", "P4")
    labels = replace(table((1,) * 7), patient_id=patients)
    cases, _ = load(images, labels)
    assert cases.image_id[: cases.n_real] == ("a.png", "c.png")
    assert len(set(cases.patient[: cases.n_real])) == 1


def test_without_patients_each_picture_has_its_own(images: Path) -> None:
    cases, _ = load(images, table(patients=False))
    assert len(set(cases.patient.tolist())) == len(cases.image_id)


def test_each_case_keeps_its_source_and_a_phantom_is_of_its_own(images: Path) -> None:
    sources = ("east", "west", "west", "east", "east", "north", "north")
    cases, _ = load(images, replace(table(), source=sources))
    assert cases.image_id[: cases.n_real] == ("a.png", "c.png", "e.png")
    assert cases.source == ("east", "west", "north", "phantom")
    assert load(images)[0].source == ("", "", "", "phantom")


def test_a_case_with_one_of_its_labels_is_kept_and_the_other_is_unknown(images: Path) -> None:
    recipe = replace(RECIPE, labels=("glaucoma", "amd"), phantoms=Phantoms())
    values = np.array([[1, -1], [1, 1], [-1, -1], [1, 1], [0, 0], [-1, 0], [0, 1]], np.int8)
    cases, _ = load(images, LabelTable(NAMES, recipe.labels, values, PATIENTS), recipe)
    assert cases.image_id == ("a.png", "d.png", "e.png")
    assert cases.targets.tolist() == [[1, -1], [-1, 0], [0, 1]]
    assert len(set(cases.group.tolist())) == 3


def test_the_second_time_nothing_is_decoded(images: Path) -> None:
    first, ticks = load(images)
    total = len(NAMES) + RECIPE.phantoms.count
    assert ticks == [(done, total) for done in range(1, total + 1)]
    stored = images.parent / "cache" / "pixels.npy"
    before = stored.stat().st_mtime_ns
    second, ticks = load(images)
    assert ticks == []
    assert stored.stat().st_mtime_ns == before
    assert second.image_id == first.image_id
    assert np.array_equal(second.pixels, first.pixels)
    assert second.dropped == first.dropped


def test_other_labels_need_no_decoding(images: Path) -> None:
    load(images)
    cases, ticks = load(images, table((0, 0, 1, 1, 1, 1, 1)))
    assert ticks == []
    assert cases.image_id[: cases.n_real] == ("a.png", "c.png", "d.png", "e.png")
    assert cases.targets[: cases.n_real, 0].tolist() == [0, 1, 1, 1]


def test_a_changed_file_is_decoded_anew(images: Path) -> None:
    first, _ = load(images)
    before = np.array(first.pixels[0])
    pixels = np.full((40, 50, 3), 200, np.uint8)
    cv2.imwrite(str(images / "a.png"), pixels)
    cases, ticks = load(images)
    assert ticks
    assert cases.image_id[0] == "a.png"
    assert "sub/b.png" in cases.image_id  # no copy any more
    assert not np.array_equal(cases.pixels[0], before)
    assert np.array_equal(cases.pixels[0], preprocess(pixels, RECIPE.preprocess))


def test_other_preprocessing_code_fills_the_cache_anew(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(images)
    monkeypatch.setattr("fundus_train.cases._code", lambda: "of another version")
    assert load(images)[1]
    assert load(images)[1] == []


def test_the_code_is_that_of_every_module_of_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, digests = cases_module._code.__wrapped__, []
    core = shutil.copytree(Path(fundus_core.__file__).parent, tmp_path / "core")
    monkeypatch.setattr(fundus_core, "__file__", str(core / "__init__.py"))
    for name in ("disc.py", "phantoms.py", "illumination.py"):
        digests.append(code())
        with (core / name).open("a") as file:
            file.write("# another line\n")
    assert len({*digests, code()}) == 4
    assert digests[0] == cases_module._code()


def test_a_file_that_appears_is_decoded(images: Path) -> None:
    load(images)
    (images / "gone.png").write_bytes((images / "d.png").read_bytes())
    assert "gone.png" in load(images)[0].image_id


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, preprocess=PreprocessSpec(size_px=33)),
        replace(RECIPE, preprocess=replace(RECIPE.preprocess, centre_crop=0.9)),
        replace(RECIPE, phantoms=Phantoms(0)),
        replace(RECIPE, phantoms=Phantoms(1, 51)),
    ],
)
def test_another_preprocessing_or_other_phantoms_fill_the_cache_anew(images: Path, recipe: Recipe) -> None:
    load(images)
    cases, ticks = load(images, recipe=recipe)
    assert ticks
    assert cases.pixels.shape[1] == recipe.preprocess.size_px
    assert cases.image_id[cases.n_real :] == tuple(f"phantom-{seed}" for seed in recipe.phantoms.seeds)


def test_another_learning_recipe_keeps_the_cache(images: Path) -> None:
    load(images)
    assert load(images, recipe=replace(RECIPE, seed=9, network=Network("vit")))[1] == []


@pytest.mark.parametrize("content", ["", "{}", '{"key": "0"}'])
def test_a_damaged_index_fills_the_cache_anew(images: Path, content: str) -> None:
    first, _ = load(images)
    (images.parent / "cache" / "index.json").write_text(content)
    second, ticks = load(images)
    assert ticks
    assert second.image_id == first.image_id


def test_without_its_pixels_the_cache_is_filled_anew(images: Path) -> None:
    load(images)
    (images.parent / "cache" / "pixels.npy").unlink()
    assert load(images)[1]


def test_an_interrupted_filling_starts_again(images: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_cases(RECIPE, table(), images, images.parent / "cache", interrupt)
    assert load(images)[1]


def test_the_index_holds_digests_and_no_patient(images: Path) -> None:
    load(images)
    text = (images.parent / "cache" / "index.json").read_text()
    digest = hashlib.sha256((images / "a.png").read_bytes()).hexdigest()
    first = json.loads(text)["outcomes"][0]
    assert (first["sha256"], len(first.pop("quality"))) == (digest, len(MEASURES))
    assert first.keys() == {"sha256"}
    assert not any(patient in text for patient in ("P1", "P2", "P4"))


def test_no_usable_photograph_is_an_error_with_the_first_reason(images: Path) -> None:
    for path in images.rglob("*.*"):
        os.truncate(path, 0)
    with pytest.raises(
        LabelsError, match=r"None of 7 labelled images can be used; the first, '.*images/a.png': empty: "
    ):
        load(images)


def test_images_that_are_in_another_folder_make_one_ask_for_it(images: Path) -> None:
    with pytest.raises(LabelsError, match=r"'.*images/sub/a\.png': vanished: .* Is --images the folder that"):
        load(images / "sub")
