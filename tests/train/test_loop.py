import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import lightning as lit
import numpy as np
import pytest
import torch
from tests.conftest import succeed

from fundus_core.errors import RecipeError
from fundus_core.preprocess import PreprocessSpec
from fundus_core.views import VIEWS, views_named
from fundus_train.cases import Cases
from fundus_train.loop import fit_fold, predict, random_flips, smooth_targets, warm_cosine
from fundus_train.network import FundusNetwork, build_network
from fundus_train.recipe import Network, Recipe, Training

SIZE_PX = 32
RECIPE = Recipe(
    "x", Network("test_efficientnet", pretrained=False), preprocess=PreprocessSpec(size_px=SIZE_PX)
)
TRAINING = Training(epochs=3, batch_size=8, learning_rate=3e-3, label_smoothing=0.1)


def network_of(seed: int) -> FundusNetwork:
    torch.manual_seed(seed)
    return build_network(RECIPE)


def cases_of(n: int = 40) -> Cases:
    """Make pictures whose brightness is the class, in shuffled rows."""
    rng = np.random.default_rng(0)
    targets = (np.arange(n) % 2).astype(np.int8)[:, None]
    row = rng.permutation(n)
    pixels = np.empty((n, SIZE_PX, SIZE_PX, 3), np.uint8)
    pixels[row] = rng.integers(0, 120, pixels.shape) + 100 * targets[:, :, None, None]
    return Cases(tuple(map(str, range(n))), pixels, row, targets, np.arange(n), n, ())


def fit(network: FundusNetwork, folder: Path, training: Training = TRAINING, report=None) -> list[float]:
    """Train on the CPU; return the loss of each epoch that was run."""
    losses: list[float] = []
    fabric = lit.Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    cases = cases_of()
    resume = folder / "fold.resume"

    def reported(epoch: int, loss: float) -> None:
        losses.append(loss)
        if report:
            report(epoch)

    fit_fold(fabric, network, training, cases, np.arange(40), 5, resume, reported)
    return losses


def test_smoothing_is_the_reports_asymmetric_form() -> None:
    targets = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert torch.allclose(smooth_targets(targets, 0.1), torch.tensor([[0.05, 0.9], [0.9, 0.05]]))
    assert torch.equal(smooth_targets(targets, 0.0), targets)


def test_random_flips_give_the_four_views_and_nothing_else() -> None:
    pixels = torch.randint(0, 256, (200, 5, 5, 3), dtype=torch.uint8)
    torch.manual_seed(0)
    flipped = random_flips(pixels)
    counts = dict.fromkeys(VIEWS, 0)
    for before, after in zip(pixels, flipped, strict=True):
        (name,) = [name for name, view in VIEWS.items() if torch.equal(after, before.flip(view.flip_axes))]
        counts[name] += 1
    assert min(counts.values()) > 30
    torch.manual_seed(0)
    assert torch.equal(random_flips(pixels), flipped)


def test_the_learning_rate_warms_up_for_an_epoch_and_falls_to_nothing() -> None:
    factor = [warm_cosine(epochs=5, steps=10)(step) for step in range(51)]
    assert factor[0] == pytest.approx(0.1)
    assert factor[9] == factor[10] == 1
    assert factor[30] == pytest.approx(0.5)
    assert factor[50] == pytest.approx(0)
    assert all(later <= earlier for earlier, later in pairwise(factor[10:]))


def test_training_learns_and_its_scores_find_their_own_cases(tmp_path: Path) -> None:
    network = network_of(0)
    losses = fit(network, tmp_path, replace(TRAINING, epochs=12))
    assert losses[-1] < 0.6 * losses[0]
    cases = cases_of()
    index = np.random.default_rng(1).permutation(40)[:33]  # two whole batches and one more
    scores = predict(network, cases, index, views_named(("identity", "both")), torch.device("cpu"))
    assert scores.shape == (33, 1)
    positive = cases.targets[index, 0] == 1
    assert scores[positive].min() > scores[~positive].max()


def test_training_begins_and_goes_on_the_same_way_every_time(tmp_path: Path) -> None:
    first, second = network_of(0), network_of(0)
    losses = []
    for number, network in enumerate((first, second)):
        (tmp_path / str(number)).mkdir()
        losses.append(fit(network, tmp_path / str(number)))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("interrupted_after", [1, 2])
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(
    interrupted_after: int, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole = network_of(0)
    before = copy.deepcopy(whole.state_dict())
    fit(whole, tmp_path / "whole")

    def interrupt(epoch: int) -> None:
        if epoch == interrupted_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(network_of(0), tmp_path / "broken", report=interrupt)
    resumed = network_of(99)  # what it starts with must not matter
    assert len(fit(resumed, tmp_path / "broken")) == TRAINING.epochs - interrupted_after
    after, expected = resumed.state_dict(), whole.state_dict()
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[name], expected[name]) for name in expected)
    assert not all(torch.equal(before[name], expected[name]) for name in expected)


def test_a_finished_fold_is_not_trained_further(tmp_path: Path) -> None:
    fit(network_of(0), tmp_path)
    assert fit(network_of(0), tmp_path) == []


def test_too_few_cases_for_one_batch_are_refused_instead_of_training_nothing(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"40 training cases make no batch of 64\. Lower batch_size"):
        fit(network_of(0), tmp_path, replace(TRAINING, batch_size=64))


def test_two_devices_train_and_write_one_run(phantom_folder: Path, tmp_path: Path) -> None:
    recipe, run = tmp_path / "two.toml", tmp_path / "run"
    recipe.write_text(
        'name = "two"\n[preprocess]\nsize_px = 32\n[network]\narchitecture = "test_efficientnet"\n'
        "pretrained = false\n[split]\ntest_size = 0.3\nfolds = 2\n[training]\nepochs = 1\nbatch_size = 4\n"
    )
    inputs = ["--data", phantom_folder / "labels.csv", "--images", phantom_folder, "--output", run]
    out = succeed("train", "fit", recipe, *inputs, "--accelerator", "cpu", "--devices", 2)
    assert out.count("AUC(CV)") == 1  # only one of the processes speaks
    written = {path.name for path in run.iterdir()}
    assert {"fold_0.safetensors", "fold_1.safetensors", "oof.csv", "inner_test.csv", "run.json"} <= written
    assert not [name for name in written if name.endswith((".resume", ".partial"))]
