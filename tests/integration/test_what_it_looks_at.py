"""What the reference ensemble looks at; the benchmark of this name measures the same on more pictures."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from fundus_client.servers import reference_repository
from fundus_core import phantoms
from fundus_core.images import decode

pytest.importorskip("onnxruntime", reason="needs the extra `embedded`: onnxruntime")

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
looks = importlib.import_module("what_it_looks_at")

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


def test_erasing_the_disc_moves_the_score_more_than_erasing_as_much_around_it_or_elsewhere(
    ensemble: looks.Ensemble,
) -> None:
    erased = looks.erase_places(ensemble, range(4))
    assert erased.disc > 0.1
    assert erased.disc > 3 * erased.around
    assert erased.disc > 3 * erased.elsewhere


def test_another_size_and_frame_hardly_move_the_score(ensemble: looks.Ensemble, ratio: looks.Ratio) -> None:
    assert looks.deliver(ensemble, range(3), looks.SHAPES[::2]) < 0.1 * ratio.effect


def test_the_border_alone_hardly_moves_the_score(ensemble: looks.Ensemble, ratio: looks.Ratio) -> None:
    assert looks.deliver_even(ensemble, looks.SHAPES[::2]) < 0.1 * ratio.effect


def test_the_frame_of_a_photograph_does_not_predict_its_label(
    ensemble: looks.Ensemble, ratio: looks.Ratio, photographs: Path
) -> None:
    """One phantom in the frame of every photograph: an ensemble that learned the margin tells them apart."""
    files, truth = looks.choose(photographs / "hygd", PER_CLASS)
    assert len(files) == 2 * PER_CLASS
    phantom = phantoms.draw(looks.eye(*looks.FRAMED[0])).pixels
    scores = ensemble.score(looks.set_into(decode(file.read_bytes()), phantom) for file in files)
    assert abs(looks.difference(truth, scores)) < 0.1 * ratio.effect


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


def test_what_is_erased_around_the_disc_is_as_large_and_in_the_circle_that_the_networks_see() -> None:
    drawn, share = looks.eye(2, 0.8), 0.3
    disc, around = looks.on_disc(drawn), looks.around_disc(drawn, share)
    assert [region.sum() for region in around] == [disc.sum()] * 4
    assert not any((region & disc).any() for region in around)
    rows, columns = (axis.mean() for axis in np.nonzero(disc))
    reach_px = share * drawn.camera.field * drawn.camera.width_px / 2
    for region in around:
        assert max(np.hypot(*(np.argwhere(region) - (rows, columns)).T)) < reach_px + 1
    places = [np.argwhere(region).mean(axis=0) - (rows, columns) for region in around]
    assert np.allclose(places[0] + places[1], 0, atol=3), "one on either side"
    assert np.allclose(places[2] + places[3], 0, atol=3)


def test_a_silhouette_keeps_the_margin_and_nothing_else() -> None:
    pixels = looks.bordered(phantoms.render(6).pixels)
    even, field = looks.silhouette(pixels, (90, 60, 30)), looks.field_of(pixels)
    assert np.unique(even[field], axis=0).tolist() == [[90, 60, 30]]
    assert np.array_equal(even[~field], pixels[~field])
    assert 0.2 < field.mean() < 0.6


def test_a_phantom_set_into_a_frame_fills_its_field() -> None:
    frame, phantom = phantoms.render(4).pixels, phantoms.render(1).pixels
    framed, field = looks.set_into(frame, phantom), looks.field_of(frame)
    assert np.array_equal(framed[~field], frame[~field])
    assert framed[field].mean(axis=0) == pytest.approx(phantom[looks.field_of(phantom)].mean(axis=0), abs=6)
