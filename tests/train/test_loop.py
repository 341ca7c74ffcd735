import copy
import math
from dataclasses import replace
from pathlib import Path

import lightning as lit
import numpy as np
import pytest
import torch
from tests.conftest import succeed

from fundus_core.errors import RecipeError
from fundus_core.preprocess import PreprocessSpec
from fundus_core.views import views_named
from fundus_train import loop
from fundus_train.cases import Cases
from fundus_train.loop import Epoch, fit_fold, mean_auc, predict
from fundus_train.network import FundusNetwork, build_network
from fundus_train.recipe import Augment, Network, Recipe, Training
from fundus_train.sampling import Draws

SIZE_PX = 32
RECIPE = Recipe(
    "x",
    Network("test_efficientnet", pretrained=False),
    preprocess=PreprocessSpec(size_px=SIZE_PX),
    augment=Augment(rotation_deg=10),
    training=Training(epochs=3, batch_size=8, learning_rate=3e-3, label_smoothing=0.1),
)
KEPT = {"last": {}, "ema": {"ema_decay": 0.8}, "swa": {"swa_epochs": 2}, "patience": {"patience": 2}}
EVERY, NONE = np.arange(40), np.arange(0)


def training(recipe: Recipe = RECIPE, **values: object) -> Recipe:
    return replace(recipe, training=replace(recipe.training, **values))


def network_of(seed: int, recipe: Recipe = RECIPE) -> FundusNetwork:
    torch.manual_seed(seed)
    return build_network(recipe)


def cases_of(n: int = 40) -> Cases:
    """Make pictures whose brightness is the class, in shuffled rows."""
    rng = np.random.default_rng(0)
    targets = (np.arange(n) % 2).astype(np.int8)[:, None]
    row = rng.permutation(n)
    pixels = np.empty((n, SIZE_PX, SIZE_PX, 3), np.uint8)
    pixels[row] = rng.integers(0, 120, pixels.shape) + 100 * targets[:, :, None, None]
    return Cases(tuple(map(str, range(n))), pixels, row, targets, np.arange(n), ("",) * n, n, ())


def fit(
    network: FundusNetwork,
    folder: Path,
    recipe: Recipe = RECIPE,
    validation: np.ndarray = NONE,
    stop_after: int = 0,
) -> list[Epoch]:
    """Train on the CPU, interrupted after epoch `stop_after` if it is one; return each epoch that was run."""
    epochs: list[Epoch] = []
    fabric = lit.Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    folder.mkdir(exist_ok=True)

    def report(epoch: Epoch) -> None:
        epochs.append(epoch)
        if epoch.number == stop_after:
            raise KeyboardInterrupt

    resume = folder / "fold.resume"
    fit_fold(fabric, network, recipe, cases_of(), EVERY, validation, 5, resume, report)
    return epochs


def distance(first: FundusNetwork, second: FundusNetwork) -> float:
    """Return the largest difference between the weights and statistics of two networks."""
    one, other = first.state_dict(), second.state_dict()
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def test_training_learns_and_its_scores_find_their_own_cases(tmp_path: Path) -> None:
    network = network_of(0)
    epochs = fit(network, tmp_path, training(epochs=12))
    assert epochs[-1].loss < 0.6 * epochs[0].loss
    cases = cases_of()
    index = np.random.default_rng(1).permutation(40)[:33]  # whole batches and one more
    scores = predict(network, cases, index, views_named(("identity", "both")), torch.device("cpu"))
    assert scores.shape == (33, 1)
    positive = cases.targets[index, 0] == 1
    assert scores[positive].min() > scores[~positive].max()


def test_an_epoch_reports_what_it_did(tmp_path: Path) -> None:
    first, second, third = fit(network_of(0), tmp_path, training(scheduler="step"))
    assert [each.number for each in (first, second, third)] == [1, 2, 3]
    assert {each.n_images for each in (first, second, third)} == {40}
    assert {each.validation_auc for each in (first, second, third)} == {None}
    rates = [each.learning_rate for each in (first, second, third)]
    assert rates == pytest.approx([3e-3, 3e-3, 3e-4])
    assert all(each.seconds > 0 and 0 < each.loss < 3 for each in (first, second, third))


def test_training_begins_and_goes_on_the_same_way_every_time(tmp_path: Path) -> None:
    first, second = network_of(0), network_of(0)
    losses = [[each.loss for each in fit(n, tmp_path / str(i))] for i, n in enumerate((first, second))]
    assert losses[0] == losses[1]
    assert distance(first, second) == 0


def test_each_epoch_has_an_order_and_a_dropout_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders, dropouts = [], []
    make, train_epoch = loop.training_loader, loop.train_epoch

    def remembered(*arguments: object) -> object:
        loader, draws = make(*arguments)
        monkeypatch.setattr(loop, "train_epoch", lambda *rest: spied(draws, *rest))
        return loader, draws

    def spied(draws: Draws, *rest: object) -> float:
        orders.append(tuple(draws))
        dropouts.append(torch.rand(3).tolist())
        return train_epoch(*rest)

    monkeypatch.setattr(loop, "training_loader", remembered)
    fit(network_of(0), tmp_path)
    assert len(orders) == len(set(orders)) == 3
    assert len(set(map(tuple, dropouts))) == 3
    assert [number for order in orders for number, _ in order] == list(range(120))


@pytest.mark.parametrize(
    "recipe",
    [
        training(loss="focal"),
        training(scheduler="none"),
        training(weight_decay=0.5),
        training(balance=1.0, accumulate=2),
        replace(RECIPE, augment=Augment(flips=False)),
    ],
)
def test_what_a_recipe_says_reaches_the_loop(recipe: Recipe, tmp_path: Path) -> None:
    plain, other = network_of(0), network_of(0)
    fit(plain, tmp_path / "plain")
    fit(other, tmp_path / "other", recipe)
    assert distance(plain, other) > 1e-4


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("stop_after", [2, 3])
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(
    stop_after: int, kept: str, tmp_path: Path
) -> None:
    recipe, validation = training(**KEPT[kept]), EVERY if kept == "patience" else NONE
    whole = network_of(0)
    before = copy.deepcopy(whole)
    expected = fit(whole, tmp_path / "whole", recipe, validation)
    with pytest.raises(KeyboardInterrupt):
        fit(network_of(0), tmp_path / "broken", recipe, validation, stop_after)
    resumed = network_of(99)  # what it starts with must not matter
    rest = fit(resumed, tmp_path / "broken", recipe, validation)
    said = [replace(each, seconds=0) for each in rest]
    # the stop came before the last reported epoch was saved, so it is done and reported again
    assert said == [replace(each, seconds=0) for each in expected[stop_after - 1 :]]
    assert distance(resumed, whole) == 0
    assert distance(before, whole) > 0


@pytest.mark.parametrize("kept", ["ema", "swa"])
def test_an_average_is_kept_and_training_itself_goes_on_without_it(kept: str, tmp_path: Path) -> None:
    plain, averaged = network_of(0), network_of(0)
    losses = [
        [each.loss for each in fit(network, tmp_path / name, recipe)]
        for network, name, recipe in ((plain, "plain", RECIPE), (averaged, kept, training(**KEPT[kept])))
    ]
    assert losses[0] == losses[1]
    assert distance(plain, averaged) > 1e-4


def test_the_mean_of_the_last_epochs_is_that_of_their_weights(tmp_path: Path) -> None:
    recipe = training(scheduler="none")
    ends = []
    for epochs in (2, 3):
        ends.append(network_of(0))
        fit(ends[-1], tmp_path / str(epochs), training(recipe, epochs=epochs))
    averaged = network_of(0)
    fit(averaged, tmp_path / "swa", training(recipe, swa_epochs=2))
    second, third, mean = (network.state_dict() for network in (*ends, averaged))
    for name, value in mean.items():
        if value.is_floating_point():
            assert torch.allclose(value, (second[name] + third[name]) / 2, atol=1e-6), name


def test_patience_stops_and_gives_the_best_epochs_weights_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aucs = iter((0.6, 0.9, 0.8, 0.7, 0.95))
    monkeypatch.setattr(loop, "mean_auc", lambda targets, scores: next(aucs))
    recipe = training(epochs=5, patience=2, scheduler="none")
    patient, best = network_of(0), network_of(0)
    epochs = fit(patient, tmp_path / "patient", recipe, EVERY)
    assert [each.validation_auc for each in epochs] == [0.6, 0.9, 0.8, 0.7]
    fit(best, tmp_path / "best", training(epochs=2, scheduler="none"))
    assert distance(patient, best) == 0
    assert fit(network_of(1), tmp_path / "patient", recipe, EVERY) == []  # and it is not begun again


def test_the_validation_auc_is_that_of_the_weights_that_count(tmp_path: Path) -> None:
    network, cases = network_of(0), cases_of()
    part = np.arange(7, 31)
    (epoch,) = fit(network, tmp_path, training(epochs=1, patience=1, ema_decay=0.5), part)
    scores = predict(network, cases, part, views_named(RECIPE.views), torch.device("cpu"))
    assert epoch.validation_auc == mean_auc(cases.targets[part], scores)


def test_with_nothing_to_validate_patience_trains_to_the_end(tmp_path: Path) -> None:
    plain, patient = network_of(0), network_of(0)
    fit(plain, tmp_path / "plain")
    epochs = fit(patient, tmp_path / "patient", training(patience=1))
    assert [each.validation_auc for each in epochs] == [None] * 3
    assert distance(plain, patient) == 0


def test_the_mean_auc_is_over_the_labels_that_have_both_classes_where_they_are_known() -> None:
    targets = np.array([[0, 1, -1], [1, 1, -1], [1, 1, 0], [0, -1, 1]], np.int8)
    scores = np.array([[0.1, 0.5, 0.9], [0.9, 0.5, 0.1], [0.8, 0.5, 0.8], [0.2, 0.5, 0.2]], np.float32)
    assert mean_auc(targets[:, :1], scores[:, :1]) == 1
    assert mean_auc(targets, scores) == 0.5  # 1 and, on two cases, 0
    assert math.isnan(mean_auc(targets[:, 1:2], scores[:, 1:2]))


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_two_half_batches_make_the_update_of_a_whole_one(ema_decay: float, tmp_path: Path) -> None:
    """For a network without batch normalisation; but for the last bits of the sums."""
    recipe = replace(RECIPE, network=Network("test_vit", pretrained=False, dropout=0.0))
    recipe = training(recipe, epochs=2, ema_decay=ema_decay, learning_rate=1e-3)
    start = network_of(0, recipe)
    whole, halves, fewer = (copy.deepcopy(start) for _ in range(3))
    said = fit(whole, tmp_path / "whole", training(recipe, batch_size=20))
    also = fit(halves, tmp_path / "halves", training(recipe, batch_size=10, accumulate=2))
    fit(fewer, tmp_path / "fewer", training(recipe, batch_size=10))
    assert [each.n_images for each in also] == [each.n_images for each in said]
    assert [each.loss for each in also] == pytest.approx([each.loss for each in said], abs=1e-4)
    moved = distance(whole, start)
    assert distance(whole, halves) < 0.05 * moved
    assert distance(whole, fewer) > 0.2 * moved


def test_batches_that_make_no_whole_update_change_no_weight(tmp_path: Path) -> None:
    """40 cases are 5 batches of 8: two updates of two, one batch left, which is not taken along."""
    recipe = replace(RECIPE, network=Network("test_vit", pretrained=False, dropout=0.0))
    recipe = training(recipe, epochs=2, accumulate=2, scheduler="none")
    network = network_of(0, recipe)
    taken = []
    step = torch.optim.AdamW.step

    def count(optimizer: torch.optim.AdamW, *rest: object, **others: object) -> object:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        taken.append(sum(g is not None for g in gradients))
        return step(optimizer, *rest, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", count)
        epochs = fit(network, tmp_path, recipe)
    assert len(taken) == 4
    assert [each.n_images for each in epochs] == [32, 32]
    assert all(p.grad is None for p in network.parameters())


def test_a_finished_fold_is_not_trained_further(tmp_path: Path) -> None:
    fit(network_of(0), tmp_path)
    assert fit(network_of(0), tmp_path) == []


@pytest.mark.parametrize(
    ("values", "size"), [({"batch_size": 64}, 64), ({"batch_size": 8, "accumulate": 6}, 48)]
)
def test_too_few_cases_for_one_update_are_refused_instead_of_training_nothing(
    values: dict[str, int], size: int, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=rf"40 training cases make no batch of {size}\. Lower batch_size"):
        fit(network_of(0), tmp_path, training(**values))


def test_two_devices_train_and_write_one_run(phantom_folder: Path, tmp_path: Path) -> None:
    recipe, run = tmp_path / "two.toml", tmp_path / "run"
    recipe.write_text(
        'name = "two"\n[preprocess]\nsize_px = 32\n[network]\narchitecture = "test_efficientnet"\n'
        "pretrained = false\n[split]\ntest_size = 0.3\nfolds = 2\n"
        "[training]\nepochs = 4\nbatch_size = 4\npatience = 1\nema_decay = 0.5\n"
    )
    inputs = ["--data", phantom_folder / "labels.csv", "--images", phantom_folder, "--output", run]
    out = succeed("train", "fit", recipe, *inputs, "--accelerator", "cpu", "--devices", 2)
    assert out.count("AUC(CV)") == 1  # only one of the processes speaks
    written = {path.name for path in run.iterdir()}
    assert {"fold_0.safetensors", "fold_1.safetensors", "oof.csv", "inner_test.csv", "run.json"} <= written
    assert not [name for name in written if name.endswith((".resume", ".partial"))]
