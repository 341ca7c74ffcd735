"""Training that runs away ends in a sentence, and in no file that a later command would trip over."""

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import Result
from tests.train.test_bad_input import RECIPE, labels_text, refused
from tests.train.test_fit import fit as fit_command
from tests.train.test_fit import recipe_file
from tests.train.test_loop import fit, network_of, training

from fundus_core.errors import RecipeError
from fundus_train import loop
from fundus_train.loop import fit_fold

RECIPE_TEXT = RECIPE.replace("epochs = 2", "epochs = 1")


@pytest.fixture
def attempt(tmp_path: Path) -> Callable[[str], Result]:
    """Run `fundus-train fit` on pictures of noise, into tmp_path / "run"."""
    images, text = tmp_path / "images", labels_text()
    images.mkdir()
    rng = np.random.default_rng(0)
    for line in text.splitlines()[1:]:
        cv2.imwrite(str(images / line.split(",")[0]), rng.integers(0, 256, (40, 40, 3), np.uint8))
    (images / "labels.csv").write_text(text)

    def run(recipe: str) -> Result:
        inputs = ("--data", images / "labels.csv", "--images", images, "--output", tmp_path / "run")
        return fit_command(recipe_file(tmp_path, recipe), *inputs, "--accelerator", "cpu")

    return run


@pytest.mark.parametrize("rate", [1e20, 1e30])
def test_training_that_diverges_is_a_sentence_and_leaves_nothing_to_go_on_from(
    rate: float, tmp_path: Path
) -> None:
    recipe = training(learning_rate=rate, scheduler="none", epochs=1)
    with pytest.raises(RecipeError, match=r"Training diverged: .*\. Lower learning_rate, or set precision"):
        fit(network_of(0), tmp_path, recipe)
    assert not list(tmp_path.iterdir())


def test_an_epoch_that_diverges_keeps_the_epoch_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, losses = loop.train_epoch, iter([1.0, math.nan])

    def diverging(fabric: object, model: torch.nn.Module, *rest: object) -> float:
        if math.isnan(next(losses)):
            next(iter(model.parameters())).data.fill_(math.nan)
        return whole(fabric, model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "train_epoch", diverging)
    with pytest.raises(RecipeError, match="Training diverged: the loss is nan"):
        fit(network_of(0), tmp_path)
    state = torch.load(tmp_path / "fold.resume", weights_only=False)
    assert state["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_training_that_diverges_can_be_mended_in_place(
    attempt: Callable[[str], Result], tmp_path: Path
) -> None:
    refused(attempt(RECIPE_TEXT + "learning_rate = 1e30\n"), 2, "Training diverged: ", "Lower learning_rate")
    assert attempt(RECIPE_TEXT).exit_code == 0


def test_weights_that_have_no_halves_make_no_checkpoint(
    attempt: Callable[[str], Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They answer with numbers until they are rounded."""

    def far(fabric: object, network: torch.nn.Module, *rest: object) -> None:
        fit_fold(fabric, network, *rest)  # type: ignore[arg-type]
        network.backbone.conv_stem.weight.data.mul_(1e7)  # type: ignore[operator, union-attr]

    monkeypatch.setattr("fundus_train.fit.fit_fold", far)
    refused(attempt(RECIPE_TEXT), 2, "Training diverged: the network answers with no numbers")
    assert [path.name for path in (tmp_path / "run").glob("fold_*")] == ["fold_0.resume"]
