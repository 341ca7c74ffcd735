"""The picture of a map: the photograph with its area, the area, and the area with its heat."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fundus_client.explaining.area import Area, Subject
from fundus_client.explaining.masks import Heat
from fundus_core.preprocess import Pixels, pad_to_square

PANEL_PX = 480
BAR_PX, SCALE_PX = 24, 96  # width of the colour bar, and of all that belongs to it
TEXT_PX = 15
LEAST = 0.02  # at the end of the bar: what is less is the resampling of the pixels
FOR, AGAINST = (213, 94, 0), (0, 114, 178)  # vermilion and blue, told apart by all (Okabe and Ito 2002)
OUTLINE = (255, 255, 255)


def draw(subject: Subject, heat: Heat) -> Pixels:
    """Return (H, W, 3) uint8 RGB: photograph, area, and the area in grey with `heat` (G, G) on it.

    Vermilion is what speaks for the label, blue what speaks against it. NaN is left without a colour.
    """
    part = _square(_cut_out(subject.pixels, subject.area))
    limit = max(LEAST, float(np.nanmax(np.abs(heat))))
    size = (PANEL_PX, PANEL_PX)
    share = np.asarray(cv2.resize(np.nan_to_num(heat / limit), size), np.float64)
    grey = np.repeat(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return np.hstack([_outlined(subject), part, _coloured(grey, share), _scale(limit)])


def _cut_out(pixels: Pixels, area: Area) -> Pixels:
    part = np.zeros((area.height_px, area.width_px, 3), np.uint8)
    shown, own = area.within(pixels.shape)
    part[own] = pixels[shown]
    return part


def _square(pixels: Pixels) -> Pixels:
    size = (PANEL_PX, PANEL_PX)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _outlined(subject: Subject) -> Pixels:
    """Return the whole photograph with the outline of its area."""
    height, width = subject.pixels.shape[:2]
    image = Image.fromarray(_square(pad_to_square(subject.pixels)))
    scale, area = PANEL_PX / max(height, width), subject.area
    left, top = area.left_px + max(0, height - width) / 2, area.top_px + max(0, width - height) / 2
    box = [scale * each for each in (left, top, left + area.width_px, top + area.height_px)]
    pen = ImageDraw.Draw(image)
    (pen.ellipse if area.is_round else pen.rectangle)(box, outline=OUTLINE, width=2)
    return np.asarray(image)


def _coloured(grey: Pixels, share: NDArray[np.float64]) -> Pixels:
    """Lay colours over grey, the stronger the nearer `share` (H, W) is to 1 (for) or -1 (against)."""
    colour = np.where(share[..., None] > 0, FOR, AGAINST)
    cover = np.clip(np.abs(share), 0, 1)[..., None]
    return np.asarray(grey * (1 - cover) + colour * cover, np.uint8)


def _scale(limit: float) -> Pixels:
    """Return the colour bar, from what speaks for the label down to what speaks against it."""
    shares = np.repeat(np.linspace(1, -1, PANEL_PX - 2 * TEXT_PX)[:, None], BAR_PX, axis=1)
    image = Image.new("RGB", (SCALE_PX, PANEL_PX), "white")
    bar = _coloured(np.full((*shares.shape, 3), 128, np.uint8), shares)
    image.paste(Image.fromarray(bar), (TEXT_PX // 2, TEXT_PX))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(TEXT_PX)
    for share in (1, 0.5, 0, -0.5, -1):
        y = PANEL_PX / 2 - share * (PANEL_PX / 2 - TEXT_PX)
        pen.text((BAR_PX + TEXT_PX, y), f"{share * limit:+.3f}", fill="black", font=font, anchor="lm")
    return np.asarray(image)
