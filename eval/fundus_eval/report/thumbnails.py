"""Small pictures of the images that the ensemble was most wrong about; they are patients' photographs."""

from pathlib import Path

import cv2

from fundus_core.errors import ImageError
from fundus_core.files import read_encoded
from fundus_core.images import DEFAULT_LIMITS, decode
from fundus_core.lit import MARGIN_LEVEL
from fundus_core.preprocess import remove_margin
from fundus_eval.study import Study

MOST = 12  # of each label
SIDE_PX = 240


def thumbnails_of(study: Study, folder: Path) -> dict[str, bytes]:
    """Return JPEG files by image_id, of the images that are in `folder`; the others are left out."""
    ids = (case.image_id for label in study.labels for case in label.cases[:MOST])
    small = {image_id: _thumbnail(folder / image_id) for image_id in dict.fromkeys(ids)}
    return {image_id: data for image_id, data in small.items() if data}


def _thumbnail(path: Path) -> bytes | None:
    try:
        pixels = remove_margin(decode(read_encoded(path, DEFAULT_LIMITS)), MARGIN_LEVEL)
    except ImageError:
        return None
    scale = SIDE_PX / max(pixels.shape[:2])
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1])
