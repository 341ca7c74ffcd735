"""Phantoms: synthetic colour fundus photographs whose label is the vertical cup-to-disc ratio.

For demonstrations, tests and training without patient data. They are drawings: a score on them says nothing
about an eye. Only the cup tells the classes apart; all else is drawn from random streams of its own.

Places on the retina are degrees of visual angle as complex numbers. The fovea is the origin, x points to the
nose, y points down: a right eye; a left eye is its mirror image.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from fundus_core.errors import UsageError
from fundus_core.painting import (
    WORK_PX,
    Floats,
    Pair,
    Places,
    Rgb,
    Widths,
    bumps,
    grid,
    paint,
    ribbon,
    stain,
    tree,
)

GLAUCOMA_CUP_TO_DISC = 0.6
RATIOS = ((0.25, 0.5), (0.68, 0.9))  # drawn without and with glaucoma; the gap keeps the label clear-cut
LABELS_FILE = "labels.csv"
LABELS_COLUMNS = ("image_id", "glaucoma", "patient_id", "eye", "cup_to_disc", "camera")

Eye = Literal["left", "right"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Camera:
    """A synthetic camera. A field of view taller than the frame is clipped at the top and bottom."""

    name: str
    width_px: int
    height_px: int
    field: float  # diameter of the field of view / width_px
    white_balance: Rgb
    blur_px: float  # of WORK_PX
    suffix: str
    jpeg_quality: int
    frequency: int  # relative


CAMERAS = (
    Camera("synthetic-square-1900", 1900, 1900, 0.97, (1.02, 0.86, 0.80), 1.6, ".jpg", 90, 3),
    Camera("synthetic-square-1024", 1024, 1024, 0.94, (1.00, 1.00, 1.00), 0.8, ".jpg", 92, 3),
    Camera("synthetic-square-512", 512, 512, 1.00, (0.88, 1.00, 1.30), 0.8, ".jpg", 85, 3),
    Camera("synthetic-square-400", 400, 400, 0.99, (1.02, 1.18, 0.62), 1.0, ".jpg", 80, 2),
    Camera("synthetic-wide-2000", 2000, 1500, 0.72, (1.03, 1.04, 0.95), 0.9, ".jpg", 93, 3),
    Camera("synthetic-wide-1440", 1440, 1080, 0.82, (0.78, 0.98, 1.35), 1.0, ".jpg", 88, 3),
    Camera("synthetic-wide-768", 768, 576, 0.88, (0.96, 1.12, 1.25), 1.3, ".jpg", 75, 2),
    Camera("synthetic-wide-1024", 1024, 768, 0.70, (1.02, 0.84, 0.95), 1.1, ".png", 0, 2),
    Camera("synthetic-wide-800", 800, 600, 0.79, (1.02, 1.00, 0.75), 1.3, ".tif", 0, 1),
    Camera("synthetic-wide-640", 640, 480, 0.74, (0.90, 1.00, 1.20), 1.2, ".bmp", 0, 1),
)


@dataclass(frozen=True)
class Plan:
    """A phantom before any pixel. `cup_to_disc` alone carries the label."""

    seed: int
    image_id: str  # the file name
    patient_id: str
    cup_to_disc: float
    glaucoma: int
    eye: Eye
    camera: Camera
    field_deg: float  # diameter of the field of view
    gaze: complex  # its centre
    disc: complex  # centre of the optic disc
    disc_radius: Pair  # horizontal, vertical
    cup: complex  # its centre
    cup_radius: Pair  # horizontal, vertical


@dataclass(frozen=True)
class Phantom:
    """One synthetic photograph and its label."""

    pixels: Pixels  # (H, W, 3) RGB
    cup_to_disc: float
    glaucoma: int
    eye: Eye
    camera: str


def plan(seed: int, cup_to_disc: float | None = None) -> Plan:
    """Draw what the phantom `seed` is going to be; the same on every call.

    `cup_to_disc` (0-1) takes the place of the ratio that the seed gives; all else stays, but for the vessels,
    which start at the cup.
    """
    # One of the seeds 2k and 2k + 1 gets glaucoma; a coin says which, so that the number gives nothing away.
    coin = int(default_rng([seed // 2, 0]).integers(2))
    by_seed = round(default_rng([seed, 1]).uniform(*RATIOS[(seed + coin) % 2]), 3)
    ratio = by_seed if cup_to_disc is None else cup_to_disc
    rng = default_rng([seed, 2])
    frequency = np.array([camera.frequency for camera in CAMERAS])
    camera = CAMERAS[rng.choice(len(CAMERAS), p=frequency / frequency.sum())]
    disc = complex(rng.uniform(14.5, 16.0), rng.uniform(-3.0, -0.5))
    high = rng.uniform(2.9, 3.3)
    wide = rng.uniform(0.88, 0.97) * high
    cup_wide, cup_high = rng.uniform(0.88, 1.02) * ratio * wide, ratio * high
    shift = complex(rng.uniform(-0.5, 0.1) * (wide - cup_wide), rng.uniform(-0.4, 0.4) * (high - cup_high))
    return Plan(
        seed=seed,
        image_id=f"phantom-{seed:05d}{camera.suffix}",
        patient_id=f"synthetic-{seed}",
        cup_to_disc=ratio,
        glaucoma=int(ratio >= GLAUCOMA_CUP_TO_DISC),
        eye="left" if rng.integers(2) else "right",
        camera=camera,
        field_deg=rng.uniform(42.5, 47.0),
        gaze=complex(rng.uniform(-1.0, 11.0), rng.uniform(-2.0, 2.0)),
        disc=disc,
        disc_radius=(wide, high),
        cup=disc + shift,
        cup_radius=(cup_wide, cup_high),
    )


def render(seed: int) -> Phantom:
    """Draw the phantom `seed`; the same on every call."""
    return draw(plan(seed))


def draw(drawn: Plan) -> Phantom:
    """Draw what is planned; the same on every call."""
    rng = default_rng([drawn.seed, 3])
    retina = _retina(drawn, rng)
    _paint_disc(retina, drawn, rng)
    _stain_vessels(retina, drawn, rng)
    _shine(retina, rng)
    pixels = _frame(_photograph(retina, drawn, rng), drawn)
    return Phantom(pixels, drawn.cup_to_disc, drawn.glaucoma, drawn.eye, drawn.camera.name)


def write_samples(folder: Path, count: int, first_seed: int = 0) -> Iterator[str]:
    """Return an iterator that writes `count` files, last labels.csv, and yields the image ids as it goes."""
    if count < 1 or first_seed < 0:
        raise UsageError(f"Cannot write {count} samples from seed {first_seed}: the least is 1, from seed 0.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder. Name a new one, or empty it.")
    folder.mkdir(parents=True, exist_ok=True)
    return _write(folder, [plan(seed) for seed in range(first_seed, first_seed + count)])


def _write(folder: Path, plans: list[Plan]) -> Iterator[str]:
    for drawn in plans:
        (folder / drawn.image_id).write_bytes(encode(draw(drawn).pixels, drawn.camera))
        yield drawn.image_id
    rows = [(p.image_id, p.glaucoma, p.patient_id, p.eye, p.cup_to_disc, p.camera.name) for p in plans]
    part = folder / f".{LABELS_FILE}.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([LABELS_COLUMNS, *rows])
    part.replace(folder / LABELS_FILE)


def encode(pixels: Pixels, camera: Camera) -> bytes:
    """Return the file that `camera` writes."""
    options = [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg_quality] if camera.suffix == ".jpg" else []
    return cv2.imencode(camera.suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _retina(drawn: Plan, rng: Generator) -> Floats:
    """Return the background: choroid, pigment and macula."""
    x, y = grid(drawn.gaze, drawn.field_deg)
    fovea, contrast = x**2 + y**2, rng.uniform(0.5, 1.2)
    retina = np.full((3, WORK_PX, WORK_PX), [[[0.84]], [[0.47]], [[0.25]]], np.float32)
    streaks = np.exp(-((bumps(rng, 22) / 0.4) ** 2)) * np.clip(0.5 + 0.6 * bumps(rng, 7), 0, 1)
    paint(retina, (0.95, 0.55, 0.28), 0.8 * rng.uniform() ** 2 * streaks * (1 - np.exp(-fovea / 60)))
    grain = 0.06 * bumps(rng, 5) + 0.035 * bumps(rng, 18) + 0.025 * bumps(rng, 90)
    stain(retina, (0.45, 0.75, 0.8), grain + np.float32(rng.uniform(0, 0.55)))
    stain(retina, (0.26, 0.36, 0.34), contrast * np.exp(-fovea / 18))
    stain(retina, (0.16, 0.24, 0.24), contrast * np.exp(-fovea / 1.5))
    return retina


def _paint_disc(retina: Floats, drawn: Plan, rng: Generator) -> None:
    """Paint one over the other: a halo, a crescent in some eyes, the disc (its rest is the rim), the cup."""
    x, y = grid(drawn.gaze, drawn.field_deg)

    def oval(centre: complex, radius: Pair, soft: float) -> Floats:
        distance = np.sqrt(((x - centre.real) / radius[0]) ** 2 + ((y - centre.imag) / radius[1]) ** 2)
        return np.clip((1 - distance) / np.float32(soft) + 0.5, 0, 1) ** np.float32(1.5)

    crescent = max(0.0, rng.uniform(-0.6, 0.6))
    paint(retina, (1.0, 0.72, 0.45), 0.2 * oval(drawn.disc, (6, 6), 1.6))
    paint(retina, (0.93, 0.68, 0.45), crescent * oval(drawn.disc - 0.8, drawn.disc_radius, 0.12))
    paint(retina, (0.96, 0.62, 0.39), 0.92 * oval(drawn.disc, drawn.disc_radius, 0.16))
    paint(retina, (1.02, 0.90, 0.68), 0.9 * oval(drawn.cup, drawn.cup_radius, 0.2))


_STEMS = (  # heading and turn in degrees (0 leads away from the fovea), length_deg, width, branches
    (78, 86, 42, 1.0, 5),  # temporal arcade
    (55, -20, 26, 0.75, 3),  # nasal
    (140, 35, 13, 0.35, 2),  # to the macula
)
_VEINS = (0.48, 0.2, (0.28, 0.55, 0.45))  # width_deg, degrees beside the others, absorbed light
_ARTERIES = (0.33, -0.2, (0.12, 0.45, 0.40))


def _stain_vessels(retina: Floats, drawn: Plan, rng: Generator) -> None:
    contrast = rng.uniform(0.45, 1.0)
    for width, aside, absorbed in (_VEINS, _ARTERIES):
        mask = np.zeros((WORK_PX, WORK_PX), np.uint8)
        for vessel in _vessels(drawn, rng, width, aside):
            cv2.fillPoly(mask, [ribbon(*vessel, drawn.gaze, drawn.field_deg)], (255,), cv2.LINE_AA, 4)
        stain(retina, absorbed, cv2.GaussianBlur(mask, (0, 0), 1.0) * np.float32(contrast / 255))


def _vessels(drawn: Plan, rng: Generator, width: float, aside: float) -> Iterator[tuple[Places, Widths]]:
    start = drawn.cup + 0.5 * drawn.cup_radius[0] + aside
    for side in (-1, 1):
        for heading, turn, length, share, branches in _STEMS:
            first = np.angle(drawn.disc) + side * np.radians(heading + 15 * aside + rng.normal(0, 6))
            further = side * np.radians(turn + rng.normal(0, 5))
            wide = width * share * rng.uniform(0.85, 1.1)
            yield from tree(rng, start, (first, further), length, wide, branches)


def _shine(retina: Floats, rng: Generator) -> None:
    """Light the retina unevenly, with haze and a glow at the edge."""
    x, y = grid(0, 2)
    away, angle, fall = x**2 + y**2, rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.35)
    towards = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    retina *= np.clip(1 - 0.3 * away + fall * towards + rng.uniform(0.03, 0.2) * bumps(rng, 3), 0.2, 1.4)
    haze = max(0.0, rng.uniform(-0.3, 0.3)) * (0.6 + 0.4 * towards)
    paint(retina, (0.72, 0.55, 0.42), haze + 0.8 * fall * np.clip(towards, 0, 1) ** 4 * away**3)


def _photograph(retina: Floats, drawn: Plan, rng: Generator) -> Pixels:
    """Return what lens and sensor make of it: the round field of view (W, W, 3)."""
    x, y = grid(0, WORK_PX)
    blur_px = float(np.hypot(drawn.camera.blur_px, rng.uniform(0, 1.2)))
    field = np.asarray(cv2.GaussianBlur(cv2.merge(list(retina)), (0, 0), blur_px), np.float32)
    field *= rng.uniform(0.75, 1.15) * np.array(drawn.camera.white_balance, np.float32)
    field += rng.uniform(0.005, 0.018) * rng.standard_normal(field.shape, np.float32)
    field *= np.clip((WORK_PX / 2 - np.hypot(x, y)) / 2, 0, 1)[..., None]
    return (255 * np.clip(field, 0, 1)).astype(np.uint8)


def _frame(field: Pixels, drawn: Plan) -> Pixels:
    """Place the field of view (W, W, 3) in the middle of the camera's frame (H, W, 3), on black."""
    size_px = (drawn.camera.width_px, drawn.camera.height_px)
    scale = np.array([-1 if drawn.eye == "left" else 1, 1]) * drawn.camera.field * size_px[0] / WORK_PX
    place = np.column_stack([np.diag(scale), (size_px - scale * WORK_PX) / 2])
    return np.asarray(cv2.warpAffine(field, place, size_px, flags=cv2.INTER_CUBIC), np.uint8)
