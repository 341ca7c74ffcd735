"""Maps of what a probability depends on: the area, the masks, the map, the files, without a server."""

import asyncio
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import pytest
from tests.client.fakes import GOOD
from tests.conftest import bare_spec

from fundus_client.explaining.area import Area, Subject, area_of
from fundus_client.explaining.explain import IN_FLIGHT, Explainer, Explanation, UnexplainedError
from fundus_client.explaining.masks import MAP_CELLS, heat_map, random_covers, stability
from fundus_client.scorer import Prediction
from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import ServerError
from fundus_core.images import decode
from fundus_core.lit import MARGIN_LEVEL
from fundus_core.phantoms import render
from fundus_core.preprocess import Pixels, PreprocessSpec, preprocess_steps

WHOLE = PreprocessSpec()
DISC = PreprocessSpec(disc_crop=0.3)
EVERYWHERE = np.ones((MAP_CELLS, MAP_CELLS), np.bool_)


def picture(seed: int = 2, width_px: int = 400) -> Pixels:
    pixels = render(seed).pixels
    scale = width_px / pixels.shape[1]
    return np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def png(pixels: Pixels) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def cut_out(pixels: Pixels, area: Area) -> Pixels:
    part = np.zeros((area.height_px, area.width_px, 3), np.uint8)
    shown, own = area.within(pixels.shape)
    part[own] = pixels[shown]
    return part


@dataclass
class Ensemble:
    """Stands in for a pool: answers with the mean red of a place, and remembers what it was sent."""

    place: tuple[slice, slice]
    spec: EnsembleSpec = field(default_factory=lambda: replace(bare_spec(1), preprocess=WHOLE))
    lost: Exception | None = None
    fails_at: int = 0  # the number of the request that goes wrong, from 1
    added: float = 0.0  # to the answer to anything but the file
    n_asked: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    async def score(self, data: bytes, request_id: str) -> Prediction:
        self.n_asked += 1
        if self.n_asked == self.fails_at:
            raise ServerError("out of order")
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.001)
        self.in_flight -= 1
        probability = float(decode(data)[self.place][..., 0].mean()) / 255 + self.added * (self.n_asked > 1)
        return Prediction((probability,), ((probability,),), GOOD)


def explained(pool: Ensemble, pixels: Pixels, n_masks: int = 100) -> Explanation:
    return asyncio.run(Explainer(pool, 0, n_masks).explain(png(pixels), lambda: None))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [1.0, 0.7])
@pytest.mark.parametrize("disc_crop", [0.3, None])
def test_the_area_is_what_preprocessing_cuts_out(seed: int, share: float, disc_crop: float | None) -> None:
    pixels = np.pad(picture(seed), ((40, 7), (11, 60), (0, 0)))
    spec = PreprocessSpec(disc_crop=disc_crop, centre_crop=share)
    steps = dict(preprocess_steps(pixels, spec))
    last = [name for name in ("margin removed", "disc crop", "centre crop") if name in steps][-1]
    part = cv2.resize(cut_out(pixels, area_of(pixels, spec)), steps[last].shape[1::-1])
    away = np.abs(part.astype(int) - steps[last])
    assert away[4:-4, 4:-4].mean() < 2.5  # two pixels beside it, it is more


def test_an_area_that_reaches_beyond_the_picture_is_hidden_as_far_as_it_is_there() -> None:
    pixels = picture()[:, : int(0.1 * 400)]
    subject = Subject.of(pixels, DISC)
    assert subject.area.left_px < 0
    assert subject.hidden(np.ones((MAP_CELLS, MAP_CELLS), np.float32)).shape == pixels.shape


def test_hiding_nothing_changes_nothing() -> None:
    pixels = picture()
    cover = np.zeros((MAP_CELLS, MAP_CELLS), np.float32)
    np.testing.assert_array_equal(Subject.of(pixels, DISC).hidden(cover), pixels)


def test_what_is_hidden_is_blurred_and_the_rest_stays() -> None:
    pixels = picture()
    subject = Subject.of(pixels, DISC)
    hidden = subject.hidden(np.ones((MAP_CELLS, MAP_CELLS), np.float32))
    inside = np.zeros(pixels.shape[:2], np.bool_)
    inside[subject.area.within(pixels.shape)[0]] = True
    np.testing.assert_array_equal(hidden[~inside], pixels[~inside])
    before, after = (cv2.Laplacian(each[..., 1], cv2.CV_32F)[inside].std() for each in (pixels, hidden))
    assert after < 0.3 * before
    assert hidden[inside].mean(axis=0) == pytest.approx(pixels[inside].mean(axis=0), rel=0.1)


def test_a_dark_margin_stays_dark() -> None:
    pixels = picture()
    hidden = Subject.of(pixels, WHOLE).hidden(np.ones((MAP_CELLS, MAP_CELLS), np.float32))
    assert hidden[pixels.max(axis=2) == 0].max() <= MARGIN_LEVEL


@pytest.mark.parametrize("seed", range(6))
def test_masks_leave_the_search_for_the_disc_where_it_was(seed: int) -> None:
    subject = Subject.of(picture(seed), DISC)
    moved = [
        not subject.area.is_near(area_of(subject.hidden(cover), DISC)) for cover in random_covers(20, seed)
    ]
    assert np.mean(moved) <= 0.1


def test_masks_hide_half_of_each_place_and_differ_by_seed_alone() -> None:
    covers = random_covers(300)
    assert 0 <= covers.min() < covers.max() <= 1
    np.testing.assert_allclose(covers.mean(axis=0), 0.5, atol=0.15)
    np.testing.assert_array_equal(covers, random_covers(300))
    assert not np.array_equal(covers[:3], random_covers(3, seed=1))


def planted(covers: np.ndarray) -> np.ndarray:
    """Answers that rise with what is shown at (16, 16), and fall with what is shown at (48, 48)."""
    return 0.5 + 0.3 * (1 - covers[:, 16, 16]) - 0.3 * (1 - covers[:, 48, 48])


def test_a_map_has_what_speaks_for_and_against_in_probability() -> None:
    covers = random_covers(400)
    heat = heat_map(planted(covers), covers)
    assert np.abs(np.subtract(np.unravel_index(heat.argmax(), heat.shape), 16)).max() < 5
    assert np.abs(np.subtract(np.unravel_index(heat.argmin(), heat.shape), 48)).max() < 5
    assert 0.1 < heat.max() < 0.3


def test_answers_that_depend_on_no_place_are_unstable() -> None:
    covers = random_covers(400)
    answers = np.random.default_rng(0).random(400)
    assert stability(answers, covers, EVERYWHERE) < 0.5
    assert stability(planted(covers), covers, EVERYWHERE) > 0.8


def test_stability_foretells_how_alike_maps_of_other_masks_are() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 400))
    masks = [random_covers(400, seed) for seed in (0, 1)]
    pairs = [(planted(covers) + each, covers) for each, covers in zip(noise, masks, strict=True)]
    alike = np.corrcoef(*(heat_map(*pair).ravel() for pair in pairs))[0, 1]
    assert stability(*pairs[0], EVERYWHERE) == pytest.approx(alike, abs=0.05)


def test_the_place_that_decides_is_found_and_few_copies_are_under_way() -> None:
    pool = Ensemble(np.s_[100:140, 250:290])
    found = explained(pool, picture())
    row, column = np.unravel_index(np.nanargmax(np.abs(found.heat)), found.heat.shape)
    area = found.subject.area
    x = area.left_px + (column + 0.5) / MAP_CELLS * area.width_px
    y = area.top_px + (row + 0.5) / MAP_CELLS * area.height_px
    assert np.hypot(x - 270, y - 120) < 40
    assert (found.n_used, found.n_moved, found.difference) == (100, 0, 0)
    assert pool.n_asked == 102
    assert 1 < pool.most_in_flight <= IN_FLIGHT


def test_beyond_the_circle_that_is_seen_there_is_no_heat() -> None:
    pool = Ensemble(np.s_[:, :], replace(bare_spec(1), preprocess=DISC))
    heat = explained(pool, picture()).heat
    assert np.isnan(heat[0, 0])
    assert 1 - np.isnan(heat).mean() == pytest.approx(np.pi / 4, abs=0.01)


def test_a_picture_that_scores_otherwise_when_it_is_sent_again_gets_no_map() -> None:
    with pytest.raises(UnexplainedError, match=r"scores \+0.030 more.*fundus-client verify"):
        explained(Ensemble(np.s_[:, :], added=0.03), picture())
    assert explained(Ensemble(np.s_[:, :], added=0.01), picture()).difference == pytest.approx(0.01)


def test_a_photograph_whose_disc_is_looked_for_elsewhere_gets_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Area, "is_near", lambda self, other: False)
    with pytest.raises(UnexplainedError, match="100 of 100 masks"):
        explained(Ensemble(np.s_[:, :]), picture())


def test_nothing_more_is_sent_after_a_failure() -> None:
    pool = Ensemble(np.s_[:, :], fails_at=20)
    with pytest.raises(ServerError, match="out of order"):
        explained(pool, picture())
    assert pool.n_asked <= 20 + IN_FLIGHT
