"""A contact sheet: what a recipe makes of each photograph, step by step, before a network sees it."""

import textwrap
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from fundus_core.errors import ImageError
from fundus_core.files import ImageRef, read_encoded
from fundus_core.images import DEFAULT_LIMITS, decode_reduced
from fundus_core.preprocess import preprocess_steps
from fundus_train.augment import augment
from fundus_train.recipe import Recipe

Pixels = NDArray[np.uint8]

VERSIONS = 3  # of the training image, each augmented anew
TILE_PX, GAP_PX, TEXT_PX = 240, 8, 18
PAPER, INK = 40, (230, 230, 230)  # grey, so that black margins are seen


@dataclass(frozen=True)
class Row:
    """One photograph: a named tile (TILE_PX, TILE_PX, 3) for each step, or a single one that says why not."""

    image_id: str
    tiles: tuple[tuple[str, Pixels], ...]
    reason: str = ""  # of the `ImageError`, where the file cannot be read


def follow(ref: ImageRef, recipe: Recipe) -> Row:
    """Return what `recipe` makes of one file: every preprocessing step, then augmented training versions."""
    try:
        data = read_encoded(ref.path, DEFAULT_LIMITS)
        pixels, _ = decode_reduced(data, DEFAULT_LIMITS, recipe.preprocess.least_px)  # as a network sees it
    except ImageError as error:
        return Row(ref.image_id, ((error.reason, _text_tile(str(error))),), error.reason)
    steps = list(preprocess_steps(pixels, recipe.preprocess))
    if any(vars(recipe.augment).values()):
        seen, rng = steps[-1][1], default_rng(recipe.seed)
        steps += [(f"training {n}", augment(seen, recipe.augment, rng)) for n in range(1, VERSIONS + 1)]
    return Row(ref.image_id, tuple((f"{name}, {_size(picture)}", _tile(picture)) for name, picture in steps))


def draw_sheet(rows: list[Row]) -> Pixels:
    """Return the sheet (H, W, 3): a line for each row, a column for each step, its name above each tile."""
    columns = max(len(row.tiles) for row in rows)
    high, wide = 2 * TEXT_PX + TILE_PX + GAP_PX, TILE_PX + GAP_PX
    sheet = _paper(len(rows) * high + GAP_PX, columns * wide + GAP_PX)
    for i, row in enumerate(rows):
        _write(sheet, row.image_id, GAP_PX, i * high + GAP_PX)
        for j, (name, tile) in enumerate(row.tiles):
            top, left = i * high + GAP_PX + TEXT_PX, j * wide + GAP_PX
            _write(sheet, name, left, top)
            sheet[top + TEXT_PX :, left:][:TILE_PX, :TILE_PX] = tile
    return sheet


def _paper(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), PAPER, np.uint8)


def _size(picture: Pixels) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"


def _tile(picture: Pixels) -> Pixels:
    """Return the whole picture in the middle of a square (TILE_PX, TILE_PX, 3)."""
    height, width = picture.shape[:2]
    scale = TILE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    fitted = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    tile = _paper(TILE_PX, TILE_PX)
    top, left = (TILE_PX - size[1]) // 2, (TILE_PX - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = fitted
    return tile


def _text_tile(sentence: str) -> Pixels:
    tile = _paper(TILE_PX, TILE_PX)
    for line, text in enumerate(textwrap.wrap(sentence, 32)):
        _write(tile, text, 0, line * TEXT_PX)
    return tile


def _write(sheet: Pixels, text: str, left: int, top: int) -> None:
    plain = text.encode("ascii", "replace").decode()  # the font has no other letters
    place = (left, top + TEXT_PX - 5)
    cv2.putText(sheet, plain, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, INK, lineType=cv2.LINE_AA)
