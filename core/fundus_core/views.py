"""Test-time views: the flips whose predictions are averaged. One table for all rooms."""

from dataclasses import dataclass

from fundus_core.errors import RecipeError


@dataclass(frozen=True, slots=True)
class View:
    """One flip of an image. `flip_axes` are axes of an (H, W, C) array."""

    name: str
    flip_axes: tuple[int, ...]


VIEWS: dict[str, View] = {
    view.name: view
    for view in (View("identity", ()), View("hflip", (1,)), View("vflip", (0,)), View("both", (0, 1)))
}


def views_named(names: tuple[str, ...]) -> tuple[View, ...]:
    """Return the views of these names, in this order.

    Raises:
        RecipeError: no name, a name twice, or an unknown one.
    """
    unknown = [name for name in names if name not in VIEWS]
    if unknown or not names or len(set(names)) != len(names):
        raise RecipeError(f"views are {list(names)}; choose different ones of {list(VIEWS)}.")
    return tuple(VIEWS[name] for name in names)
