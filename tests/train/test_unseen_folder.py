"""What `fundus-train unseen` keeps, says and refuses."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from rich.progress import Progress, TaskID
from tests.train.test_unseen import RECIPE, RECIPE_TEXT, SOURCES, command, experiment, table

from fundus_core.errors import LabelsError
from fundus_train import results
from fundus_train.cli import main
from fundus_train.loop import Epoch


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 small pictures of noise, and their labels.csv."""
    folder = tmp_path_factory.mktemp("unseen")
    rng, lines = np.random.default_rng(0), ["image_id,glaucoma,patient_id\n"]
    for i in range(sum(SOURCES.values())):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (40, 40, 3), np.uint8))
        lines.append(f"{i}.png,{i % 2},P{i}\n")
    (folder / "labels.csv").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("name", ["vanished", "appeared"])
def test_scores_are_never_given_to_other_images(name: str, images: Path, tmp_path: Path) -> None:
    labels, changing = table(images), tmp_path / "images"
    shutil.copytree(images, changing)
    image = changing / labels.image_id[2]
    held = image.read_bytes()
    if name == "appeared":
        image.unlink()
    first = experiment(changing, tmp_path / "run", labels).fit((3,), tmp_path / "cache")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    image.unlink() if name == "vanished" else image.write_bytes(held)
    sentence = rf"Images or their parts have changed since .* such as {image.name}\. Restore the images"
    with pytest.raises(LabelsError, match=sentence):
        experiment(changing, tmp_path / "run", labels).fit((3,), tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    image.write_bytes(held) if name == "vanished" else image.unlink()
    assert experiment(changing, tmp_path / "run", labels).fit((3,), tmp_path / "cache") == first


def test_time_and_counts_are_written_and_a_stopped_network_is_counted_once(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = replace(RECIPE, training=replace(RECIPE.training, epochs=2, patience=0))
    append = results.append_epoch

    def interrupted(run: Path, name: str, epoch: Epoch) -> None:
        append(run, name, epoch)
        if (name, epoch.number) == ("north-seed0", 2):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(results, "append_epoch", interrupted)
        experiment(images, tmp_path / "run", table(images), two).fit((0,), tmp_path / "cache")
    experiment(images, tmp_path / "run", table(images), two).fit((0,), tmp_path / "cache")
    epochs = list(csv.DictReader((tmp_path / "run" / "epochs.csv").open()))
    networks = [f"{source}-seed0" for source in sorted(SOURCES)]
    assert [(row["fold"], row["epoch"]) for row in epochs] == [(n, e) for n in networks for e in "12"]
    said = json.loads((tmp_path / "run" / "unseen.json").read_text())
    assert (said["n_images"], said["n_dropped"]) == (24, 0)
    assert said["seconds"] == pytest.approx(sum(float(row["seconds"]) for row in epochs), abs=0.01)
    assert said["images_per_s"] > 0


def test_a_run_whose_epochs_nobody_noted_has_no_time(images: Path, tmp_path: Path) -> None:
    labels, run = table(images), tmp_path / "run"
    first = experiment(images, run, labels).fit((3,), tmp_path / "cache")
    (run / "epochs.csv").unlink()
    assert experiment(images, run, labels).fit((3,), tmp_path / "cache") == first
    assert "seconds" not in json.loads((run / "unseen.json").read_text())


def test_what_is_left_out_is_told_and_what_is_read_is_shown(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    gone, text = table(images).image_id[:2]
    (folder / gone).unlink()
    (folder / text).write_text("no picture")
    bars: list[tuple[object, object]] = []
    update = Progress.update

    def noting(self: Progress, task: TaskID, **values: object) -> None:
        bars.append((values.get("completed"), values.get("total")))
        update(self, task, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(Progress, "update", noting)
    done = command(folder, tmp_path)
    assert done.exit_code == 0, done.output
    said = done.stderr.replace("\n", " ")
    assert f"left out {gone}: vanished: " in said
    assert f"left out {text}: not_an_image: " in said
    rows = list(csv.DictReader((tmp_path / "run" / "dropped.csv").open()))
    assert [row["image_id"] for row in rows] == [gone, text]
    assert bars[:24] == [(number, 24) for number in range(1, 25)]


def test_a_network_that_cannot_be_made_is_told_before_anything_is_decoded(
    images: Path, tmp_path: Path
) -> None:
    done = command(images, tmp_path, RECIPE_TEXT.replace("test_efficientnet", "test_eficientnet"))
    assert done.exit_code == 2
    assert "Did you mean 'test_efficientnet'?" in done.stderr
    assert not (tmp_path / "run" / "cache").exists()


def test_the_views_of_such_a_run_are_refused_with_what_to_choose(images: Path, tmp_path: Path) -> None:
    assert command(images, tmp_path).exit_code == 0
    done = CliRunner().invoke(main, ["views", str(tmp_path / "run"), "--accelerator", "cpu"])
    assert done.exit_code == 1
    assert "makes no ensemble. Choose a run of `fundus-train fit`." in done.stderr.replace("\n", " ")
