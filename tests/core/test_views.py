import itertools

import numpy as np
import pytest

from fundus_core.errors import RecipeError
from fundus_core.views import VIEWS, View, views_named

PICTURE = np.array([[[1], [2]], [[3], [4]], [[5], [6]]], np.uint8)  # (3, 2, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("identity", [[1, 2], [3, 4], [5, 6]]),
        ("hflip", [[2, 1], [4, 3], [6, 5]]),
        ("vflip", [[5, 6], [3, 4], [1, 2]]),
        ("both", [[6, 5], [4, 3], [2, 1]]),
    ],
)
def test_a_view_flips_as_its_name_says(name: str, expected: list[list[int]]) -> None:
    assert np.flip(PICTURE, VIEWS[name].flip_axes)[..., 0].tolist() == expected


def test_there_are_these_four_views_under_their_own_names() -> None:
    assert list(VIEWS) == ["identity", "hflip", "vflip", "both"]
    assert all(name == view.name for name, view in VIEWS.items())


def test_views_keep_the_order_in_which_they_are_named() -> None:
    for names in itertools.permutations(VIEWS, 2):
        assert tuple(view.name for view in views_named(names)) == names
    assert views_named(("vflip",)) == (View("vflip", (0,)),)


@pytest.mark.parametrize("names", [(), ("identity", "identity"), ("rotate",), ("identity", "HFLIP")])
def test_no_view_a_view_twice_or_an_unknown_one_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(
        RecipeError, match=r"choose different ones of \['identity', 'hflip', 'vflip', 'both'\]"
    ):
        views_named(names)
