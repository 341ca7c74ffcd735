import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from fundus_core.reading import read_labels, read_scores
from fundus_core.tables import LabelTable, join
from fundus_core.views import VIEWS
from fundus_eval.auc import auc_delong
from fundus_train.ablation import SETS, _results
from fundus_train.checkpoint import load_checkpoint
from fundus_train.cli import main as fundus_train

PARTS = {"AUC(CV)": "cross_validation", "AUC(inner_test)": "inner_test"}


def views(*arguments: object) -> Result:
    return CliRunner().invoke(fundus_train, ["views", "--accelerator", "cpu", *map(str, arguments)])


@pytest.fixture(scope="module")
def found(tiny_run: Path) -> list[dict[str, Any]]:
    done = views(tiny_run, "--json")
    assert done.exit_code == 0, done.output
    content: list[dict[str, Any]] = json.loads(done.stdout)
    return content


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run."""
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


def cached(run: Path) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    return np.load(run / "cache" / "pixels.npy"), json.loads((run / "cache" / "index.json").read_text())


def cache(
    run: Path, pixels: np.ndarray[Any, Any], image_ids: list[str], outcomes: list[dict[str, Any]]
) -> None:
    np.save(run / "cache" / "pixels.npy", pixels)
    index = {"key": "", "image_id": image_ids, "outcomes": outcomes}
    (run / "cache" / "index.json").write_text(json.dumps(index))


def test_every_set_is_judged_on_both_parts(found: list[dict[str, Any]]) -> None:
    assert [(each["part"], each["views"]) for each in found] == [
        (part, name) for part in PARTS for name in SETS
    ]
    assert {each["label"] for each in found} == {"glaucoma"}
    assert [each["names"] for each in found[:4]] == [
        ["identity"],
        ["identity", "hflip"],
        ["identity", "hflip", "vflip"],
        ["identity", "hflip", "vflip", "both"],
    ]


def test_the_views_of_the_run_give_the_figures_of_the_run(
    found: list[dict[str, Any]], tiny_run: Path
) -> None:
    said = json.loads((tiny_run / "run.json").read_text())
    assert said["recipe"]["views"] == list(SETS["four"])
    for each in found:
        if each["views"] == "four":
            expected = said[PARTS[each["part"]]]
            assert each["n"] == expected["n"]
            assert each["auc"] == {
                key: pytest.approx(expected[f"auc{end}"], abs=1e-9)
                for key, end in (("value", ""), ("low", "_low"), ("high", "_high"))
            }


def test_none_is_the_picture_as_it_is(found: list[dict[str, Any]], tiny_run: Path) -> None:
    """By the network on the cached pixels; the tiny run dropped no image, so rows are those of split.csv."""
    pixels, _ = cached(tiny_run)
    truth, scores = read_labels(tiny_run / "split.csv"), read_scores(tiny_run / "inner_test.csv")
    rows = [truth.image_id.index(image_id) for image_id in scores.image_id]
    networks = [load_checkpoint(tiny_run / f"fold_{fold}.safetensors")[0] for fold in range(2)]
    with torch.inference_mode():
        folds = [torch.sigmoid(network(torch.from_numpy(pixels[rows])))[:, 0] for network in networks]
    auc = auc_delong(join(scores, truth).truth[:, 0], np.round(torch.stack(folds).mean(0).numpy(), 6)).value
    (none,) = (each for each in found if (each["part"], each["views"]) == ("AUC(inner_test)", "none"))
    assert none["auc"]["value"] == pytest.approx(auc, abs=0.01)
    assert none["change"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_change_is_against_none_and_lies_in_its_interval(found: list[dict[str, Any]]) -> None:
    for part in PARTS:
        none, *others = (each for each in found if each["part"] == part)
        for each in others:
            change = each["change"]
            assert change["value"] == pytest.approx(each["auc"]["value"] - none["auc"]["value"])
            assert change["low"] <= change["value"] <= change["high"]
            assert change["low"] < change["high"]


def test_lines_say_the_same_as_json(found: list[dict[str, Any]], tiny_run: Path) -> None:
    lines = views(tiny_run).stdout.splitlines()
    assert len(lines) == len(found)
    for line, each in zip(lines, found, strict=True):
        label, part, name, auc = line.split()[:4]
        assert (label, part, name, auc) == (
            "glaucoma",
            each["part"],
            each["views"],
            f"{each['auc']['value']:.3f}",
        )
        assert ("change" in line) == (name != "none")
    assert f"change {found[1]['change']['value']:+.4f} [" in lines[1]


def test_images_that_are_not_in_the_split_stay_out(run: Path, found: list[dict[str, Any]]) -> None:
    """As if the labels table had begun with an unreadable file, and ended its photographs with a copy."""
    pixels, index = cached(run)
    n = len(index["image_id"])
    ids = ["damaged.jpg", *index["image_id"], "copy.jpg"]
    outcomes = [{"failed": "corrupt"}, *index["outcomes"], index["outcomes"][5]]
    cache(run, np.concatenate([pixels[:1], pixels[:n], pixels[5:6], pixels[n:]]), ids, outcomes)
    assert json.loads(views(run, "--json").stdout) == found


def test_a_picture_under_another_name_is_noticed(run: Path) -> None:
    pixels, index = cached(run)
    cache(run, pixels[::-1], index["image_id"], index["outcomes"])
    done = views(run)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "holds other images than its split.csv and oof.csv" in done.stderr


def test_a_cache_of_other_images_is_a_sentence(run: Path) -> None:
    pixels, index = cached(run)
    ids, outcomes = index["image_id"], index["outcomes"]
    for names, contents in (([f"other/{name}" for name in ids], outcomes), (ids, outcomes[::-1])):
        cache(run, pixels, names, contents)
        done = views(run)
        assert done.exit_code == 1
        assert "holds other images than its split.csv" in done.stderr


def test_a_run_of_before_preprocessing_had_revisions_is_refused(run: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    del content["recipe"]["preprocess"]["revision"]
    (run / "run.json").write_text(json.dumps(content))
    done = views(run)
    assert done.exit_code == 1
    assert "revision is 1, and preprocessing here is of" in done.stderr


def test_a_run_json_of_another_command_is_a_sentence(run: Path) -> None:
    (run / "run.json").write_text(json.dumps({"command": "score"}))
    done = views(run)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "holds no finished training run" in done.stderr


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("cache/pixels.npy", "has no cache of preprocessed images. Run the same `fundus-train fit` command"),
        ("cache/index.json", "has no cache of preprocessed images"),
        ("run.json", "holds no finished training run"),
        ("fold_1.safetensors", "is no fold checkpoint"),
    ],
)
def test_what_is_missing_is_a_sentence(missing: str, sentence: str, run: Path) -> None:
    (run / missing).unlink()
    done = views(run)
    assert (done.exit_code, done.stdout) == (1, "")
    assert sentence in done.stderr


def test_a_device_that_is_not_there_is_a_sentence(tiny_run: Path) -> None:
    done = views(tiny_run, "--accelerator", "abacus")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--accelerator abacus --devices 1 is not to be had here" in done.stderr


def test_each_label_is_judged_on_the_images_where_it_is_known() -> None:
    values = np.array([[1, 0], [0, 1], [1, -1], [0, 1], [1, 0]], np.int8)
    truth = LabelTable(tuple("abcde"), ("glaucoma", "amd"), values)
    right = np.where(values < 0, 0.5, values).astype(float)
    scores = np.broadcast_to(right, (len(VIEWS), *right.shape)).copy()
    scores[1:, :, 1] = 1 - right[:, 1]  # every flip is wrong about amd
    chosen = np.array([True, True, True, True, False])
    amd = list(_results("AUC(CV)", truth, 1, chosen, scores))
    assert [(each.label, each.n, each.auc.value) for each in amd] == [
        ("amd", 3, pytest.approx(expected)) for expected in (1, 0.5, 0, 0)
    ]
    glaucoma = list(_results("AUC(CV)", truth, 0, chosen, scores))
    assert [(each.n, each.auc.value) for each in glaucoma] == [(4, 1)] * 4
