"""Where a phantom has its disc, and places as large as it around it and beside it."""

import numpy as np
from numpy.typing import NDArray

from fundus_core.phantoms import Plan

Region = NDArray[np.bool_]  # (H, W)

ERASED = 1.3  # times the disc's radius, for its crescent: what is erased
AWAY = 2.7  # times the disc's radius: no two erased places overlap


def on_disc(drawn: Plan) -> Region:
    """Return the disc's place in the picture."""
    return _oval(drawn, drawn.disc)


def beside_disc(drawn: Plan) -> list[Region]:
    """Return ovals of the disc's size on its four sides and at the fovea, as far as the field reaches."""
    wide, high = drawn.disc_radius
    centres = [drawn.disc + AWAY * step for step in (wide, -wide, 1j * high, -1j * high)]
    reach = drawn.field_deg / 2 - ERASED * high
    return [_oval(drawn, centre) for centre in (*centres, 0j) if abs(centre - drawn.gaze) < reach]


def around_disc(drawn: Plan, share: float) -> list[Region]:
    """Return an area as large as the disc's on each of its four sides, inside the circle of the disc crop.

    Such a circle has no room for a second oval, so each area is a part of what the disc leaves free of it.
    """
    place, disc = _degrees(drawn, drawn.disc), on_disc(drawn)
    free = np.where((abs(place) < share * drawn.field_deg / 2) & ~disc, 0, np.inf)
    sides = [abs(np.angle(place * turn)) + free for turn in (1, -1, 1j, -1j)]
    nearest = (np.argsort(side, axis=None, kind="stable")[: disc.sum()] for side in sides)
    return [np.isin(np.arange(disc.size), chosen).reshape(disc.shape) for chosen in nearest]


def _oval(drawn: Plan, centre: complex) -> Region:
    place = _degrees(drawn, centre)
    return np.asarray(np.hypot(place.real / drawn.disc_radius[0], place.imag / drawn.disc_radius[1]) < ERASED)


def _degrees(drawn: Plan, centre: complex) -> NDArray[np.complex128]:
    """Return where each pixel (H, W) lies, seen from `centre`."""
    width, height = drawn.camera.width_px, drawn.camera.height_px
    degree = drawn.field_deg / (drawn.camera.field * width)
    x = (np.arange(width) - (width - 1) / 2) * degree * (-1 if drawn.eye == "left" else 1)
    y = (np.arange(height) - (height - 1) / 2) * degree
    return np.asarray(x[None] + 1j * y[:, None] + drawn.gaze - centre)
