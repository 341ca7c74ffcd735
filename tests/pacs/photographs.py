"""Photographs of a named person, each of its own pixels, as a camera sends them."""

import cv2
import numpy as np
from pydicom import Dataset
from pydicom import uid as uids
from tests.dicom.objects import JAPANESE, PERSON, ophthalmic, phantom, with_streams

SECRETS = (*PERSON.values(), "Yamada")
PICTURES = [phantom(seed) for seed in range(4)]


def photograph(number: int, *, native: bool = False, cut: bool = False) -> Dataset:
    """Return the photograph `number`; two in a row are of one study. A `cut` one holds half a JPEG."""
    pixels = PICTURES[number % len(PICTURES)].copy()
    pixels[0, :2] = number // 256, number % 256, 77
    study = uids.generate_uid(entropy_srcs=["study", str(number // 2)])
    person = PERSON | {"PatientID": f"{PERSON['PatientID']}-{number // 2}", "PatientName": JAPANESE}
    made = ophthalmic(
        pixels,
        **person,
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        StudyInstanceUID=study,
        SeriesInstanceUID=f"{study[:60]}.1",
        ImageLaterality="RL"[number % 2],
    )
    if native:
        return made
    stream = _jpeg(pixels)
    streams = [stream[: len(stream) // 2] if cut else stream]
    return with_streams(made, streams, uids.JPEGBaseline8Bit, "YBR_FULL_422")


def _jpeg(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1])
