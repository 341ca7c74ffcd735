"""What the reference ensemble looks at; the benchmark of this name measures the same on more pictures."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from fundus_client.servers import reference_repository
from fundus_core import phantoms
from fundus_core.images import decode

pytest.importorskip("onnxruntime", reason="needs the extra `embedded`: onnxruntime")

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "what_it_looks_at.py"
_SPEC = importlib.util.spec_from_file_location("what_it_looks_at", BENCHMARK)
assert _SPEC and _SPEC.loader
looks = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = looks  # where dataclasses look their module up
_SPEC.loader.exec_module(looks)

PER_CLASS = 32  # photographs


@pytest.fixture(scope="module")
def ensemble() -> looks.Ensemble:
    return looks.Ensemble.load(reference_repository())


@pytest.fixture(scope="module")
def ratio(ensemble: looks.Ensemble) -> looks.Ratio:
    return looks.follow_ratio(ensemble, range(8))


def test_the_score_rises_with_the_cup_to_disc_ratio(ratio: looks.Ratio) -> None:
    assert ratio.rank_correlation > 0.8
    assert ratio.effect > 0.4


def test_erasing_the_disc_moves_the_score_more_than_erasing_as_much_elsewhere(
    ensemble: looks.Ensemble,
) -> None:
    erased = looks.erase_places(ensemble, range(4))
    assert erased.disc > 0.1
    assert erased.disc > 3 * erased.elsewhere


def test_another_size_and_frame_hardly_move_the_score(ensemble: looks.Ensemble, ratio: looks.Ratio) -> None:
    assert looks.deliver(ensemble, range(3), looks.SHAPES[::2]) < 0.1 * ratio.effect


def test_the_border_alone_hardly_moves_the_score(ensemble: looks.Ensemble, ratio: looks.Ratio) -> None:
    assert looks.deliver_even(ensemble, looks.SHAPES[::2]) < 0.1 * ratio.effect


def test_silhouettes_of_photographs_do_not_predict_the_label(
    ensemble: looks.Ensemble, photographs: Path
) -> None:
    files, truth = looks.choose(photographs / "hygd", PER_CLASS)
    assert len(files) == 2 * PER_CLASS
    pictures = [decode(file.read_bytes()) for file in files]
    scores = ensemble.score(looks.silhouette(pixels, looks.RETINA) for pixels in pictures)
    assert looks.auc(truth, np.array([pixels.shape[1] for pixels in pictures])) > 0.62, "a trap that is none"
    assert looks.auc(truth, scores) == pytest.approx(0.5, abs=0.12)


def test_what_is_erased_is_the_disc_and_nothing_beside_it() -> None:
    drawn = looks.eye(2, 0.8)
    pixels, disc, beside = phantoms.draw(drawn).pixels, looks.on_disc(drawn), looks.beside_disc(drawn)
    without = looks.erase(pixels, disc)
    green = pixels[..., 1].astype(float)
    assert green[disc].mean() > 1.3 * green.mean(where=looks.field_of(pixels)), "the disc is bright"
    assert without[..., 1][disc].mean() < 0.8 * green[disc].mean()
    assert len(beside) >= 3
    assert all(region.sum() == pytest.approx(disc.sum(), rel=0.01) for region in beside)
    assert not any((region & disc).any() for region in beside)


def test_a_silhouette_keeps_the_border_and_nothing_else() -> None:
    pixels = looks.bordered(phantoms.render(6).pixels)
    even = looks.silhouette(pixels, (90, 60, 30))
    field = looks.field_of(pixels)
    assert np.unique(even[field], axis=0).tolist() == [[90, 60, 30]]
    assert np.array_equal(even[~field], pixels[~field])
    assert 0.2 < field.mean() < 0.6
