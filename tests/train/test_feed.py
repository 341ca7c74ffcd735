import os
from dataclasses import replace

import cv2
import lightning as lit
import numpy as np
import pytest
import torch
from numpy.random import default_rng

from fundus_core.preprocess import PreprocessSpec
from fundus_train import feed
from fundus_train.augment import augment
from fundus_train.cases import Cases
from fundus_train.feed import AugmentedDataset, CaseDataset, training_loader
from fundus_train.recipe import Augment, Network, Recipe, Training

SIZE_PX = 24
CHANGES = Augment(rotation_deg=20, scale=0.3, colour=0.2, vignette=0.3, blur_px=1.0, jpeg=50)
RECIPE = Recipe(
    "x",
    Network("test_efficientnet", pretrained=False),
    preprocess=PreprocessSpec(size_px=SIZE_PX),
    augment=CHANGES,
    training=Training(batch_size=4, balance=1.0),
)
PART = np.arange(3, 30)
Batch = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def cases() -> Cases:
    """30 cases of two labels and two sources; each picture holds the number of its case in a corner."""
    row = default_rng(0).permutation(30)
    pixels = default_rng(1).integers(0, 256, (30, SIZE_PX, SIZE_PX, 3), np.uint8)
    pixels[row, 0, 0] = np.arange(30)[:, None]
    targets = np.stack([np.arange(30) % 2, np.arange(30) % 3 - 1], axis=1).astype(np.int8)
    source = tuple("ab"[i < 10] for i in range(30))
    return Cases(tuple(map(str, range(30))), pixels, row, targets, np.arange(30), source, 30, ())


def batches(cases: Cases, recipe: Recipe = RECIPE, epoch: int = 0) -> list[Batch]:
    loader, draws = training_loader(lit.Fabric(accelerator="cpu", devices=1), recipe, cases, PART, 5)
    draws.epoch = epoch
    return list(loader)


def test_a_case_has_its_own_pixels_and_targets(cases: Cases) -> None:
    dataset = CaseDataset(cases, PART)
    assert len(dataset) == len(PART)
    for item, case in enumerate(PART):
        pixels, targets = dataset[item]
        assert (pixels.dtype, targets.dtype) == (torch.uint8, torch.float32)
        assert pixels[0, 0, 0] == case
        assert targets.tolist() == cases.targets[case].tolist()


def test_a_batch_may_be_changed_without_changing_the_cache(cases: Cases) -> None:
    before = cases.pixels.copy()
    CaseDataset(cases, PART)[0][0].fill_(7)
    AugmentedDataset(CaseDataset(cases, PART), Augment(flips=False), 0)[0, 0][0].fill_(7)
    assert np.array_equal(cases.pixels, before)


def test_a_draw_is_augmented_by_seed_and_number_alone(cases: Cases) -> None:
    dataset = AugmentedDataset(CaseDataset(cases, PART), CHANGES, seed=5)
    pixels, targets = dataset[17, 4]
    plain = cases.pixels[cases.row[PART[4]]]
    assert np.array_equal(pixels.numpy(), augment(plain, CHANGES, default_rng([5, 17])))
    assert targets.tolist() == cases.targets[PART[4]].tolist()
    assert torch.equal(dataset[17, 4][0], pixels)
    assert not torch.equal(dataset[18, 4][0], pixels)
    assert not torch.equal(replace(dataset, seed=6)[17, 4][0], pixels)


def test_the_loader_gives_whole_batches_of_the_part_alone(cases: Cases) -> None:
    found = batches(cases, replace(RECIPE, augment=Augment(flips=False)))
    assert [tuple(pixels.shape) for pixels, _ in found] == [(4, SIZE_PX, SIZE_PX, 3)] * (len(PART) // 4)
    for pixels, targets in found:
        numbers = pixels[:, 0, 0, 0].tolist()
        assert set(numbers) <= set(PART.tolist())
        assert targets.tolist() == cases.targets[numbers].tolist()


def test_groups_are_balanced_as_the_recipe_says(cases: Cases) -> None:
    plain = replace(RECIPE, augment=Augment(flips=False))
    drawn = [
        number for e in range(8) for pixels, _ in batches(cases, plain, e) for number in pixels[:, 0, 0, 0]
    ]
    counts, plain_counts = np.bincount(cases.group[np.array(drawn)]), np.bincount(cases.group[PART])
    assert counts.min() > 0.4 * counts.max()
    assert plain_counts.min() < 0.4 * plain_counts.max()


def test_a_group_is_a_source_with_a_combination_of_labels(cases: Cases) -> None:
    keys = [(source, *target) for source, target in zip(cases.source, cases.targets.tolist(), strict=True)]
    for i in range(30):
        for j in range(30):
            assert (cases.group[i] == cases.group[j]) == (keys[i] == keys[j])


def test_an_epoch_is_the_same_each_time_and_another_is_not(cases: Cases) -> None:
    first, again, later = batches(cases), batches(cases), batches(cases, epoch=1)
    assert all(torch.equal(one[0], other[0]) for one, other in zip(first, again, strict=True))
    assert not any(torch.equal(one[0], other[0]) for one, other in zip(first, later, strict=True))


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # there is no GPU to pin for
@pytest.mark.parametrize("augmix", [0, 3])
def test_processes_that_read_ahead_give_the_same_batches(
    augmix: int, cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, augment=replace(CHANGES, augmix=augmix))
    cv2.GaussianBlur(np.zeros((500, 500, 3), np.uint8), (0, 0), 3)  # a fork with OpenCV's threads there
    alone = [batches(cases, recipe, epoch) for epoch in (0, 3)]
    monkeypatch.setattr(feed, "_workers", lambda fabric: 2)
    together = [batches(cases, recipe, epoch) for epoch in (0, 3)]
    for one, other in zip(alone, together, strict=True):
        assert len(one) == len(other)
        for (pixels, targets), (same_pixels, same_targets) in zip(one, other, strict=True):
            assert torch.equal(pixels, same_pixels)
            assert torch.equal(targets, same_targets)


class Device:
    """Stands for a Fabric: which device, of how many."""

    def __init__(self, kind: str, world_size: int = 1) -> None:
        self.device, self.world_size = torch.device(kind), world_size


def test_only_a_gpu_has_processes_and_they_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    assert feed._workers(Device("cpu")) == 0
    assert [feed._workers(Device("cuda", world)) for world in (1, 2, 3, 100)] == [8, 6, 4, 1]
