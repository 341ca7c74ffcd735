"""Damaged phantoms through decoding and preprocessing: pixels or a reason, in bounded time and memory.

A crash of the decoder ends the whole test run: that, too, is a result.
"""

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.mutations import SEEDS, mutated

from fundus_core.errors import IMAGE_REASONS, ImageError
from fundus_core.images import DEFAULT_LIMITS, ImageLimits, decode
from fundus_core.preprocess import PreprocessSpec, preprocess_encoded

LIMITS = ImageLimits(max_pixels=200_000)
SPEC = PreprocessSpec(size_px=64, disc_crop=0.5, illumination="local_contrast")


def memory_mib(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


def check(data: bytes, limits: ImageLimits = LIMITS, *, most_s: float = 10, most_mib: float = 250) -> str:
    """Preprocess the image; return "pixels" or the reason why there are none."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before_mib, started_s = memory_mib("VmRSS"), time.process_time()
    try:
        pixels = preprocess_encoded(data, SPEC, limits)
    except ImageError as error:
        assert error.reason in IMAGE_REASONS
        assert str(error).endswith(".")
        outcome: str = error.reason
    else:
        assert (pixels.dtype, pixels.shape) == (np.uint8, (64, 64, 3))
        outcome = "pixels"
    assert time.process_time() - started_s < most_s
    assert memory_mib("VmHWM") - before_mib < most_mib
    return outcome


@pytest.mark.parametrize("name", SEEDS)
def test_an_undamaged_phantom_gives_pixels(name: str) -> None:
    assert decode(SEEDS[name], LIMITS).shape == (160, 192, 3)
    assert check(SEEDS[name]) == "pixels"


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(list(SEEDS)), st.integers(0, 2**32))
def test_a_damaged_phantom_gives_pixels_or_a_reason(name: str, seed: int) -> None:
    check(mutated(name, seed))


def test_the_damage_is_of_every_kind() -> None:
    """Else the test above would prove little: much gets through, and every stage refuses something."""
    outcomes = {check(mutated(name, seed)) for name in SEEDS for seed in range(12)}
    assert outcomes >= {"pixels", "corrupt", "not_an_image", "too_many_pixels"}


def test_an_animated_png_whose_first_frame_is_damaged_is_refused() -> None:
    """OpenCV 4.11 and 4.12 end the process on it."""
    data = SEEDS["png animated"]
    at = data.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", data, at)
    rows = b"IDAT" + zlib.compress(bytes([9]) * 160 * (1 + 192 * 3))  # there is no row filter 9
    chunk = struct.pack(">I", len(rows) - 4) + rows + struct.pack(">I", zlib.crc32(rows))
    assert check(data[:at] + chunk + data[at + 12 + length :]) == "corrupt"


def test_the_first_frame_of_an_animated_png_counts() -> None:
    assert np.array_equal(decode(SEEDS["png animated"]), decode(SEEDS["png"]))


def test_a_png_chunk_takes_no_more_memory_than_the_file_has() -> None:
    data = bytearray(SEEDS["png"])
    struct.pack_into(">I", data, data.index(b"IDAT") - 4, 1_600_000_000)
    assert check(bytes(data)) == "corrupt"


def progressive(n_scans: int) -> bytes:
    """A grey JPEG of 2000 px; every scan after the sixth repeats its last 14 bytes."""
    buffer = io.BytesIO()
    Image.new("L", (2000, 2000)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (n_scans - data.count(b"\xff\xda\x00")) + data[-2:]


@pytest.mark.parametrize(("n_scans", "outcome"), [(100, "pixels"), (101, "corrupt"), (100_000, "corrupt")])
def test_a_jpeg_of_many_scans_is_refused(n_scans: int, outcome: str) -> None:
    """Each goes over all pixels: 100,000 scans of a few bytes would take a quarter of an hour here."""
    assert check(progressive(n_scans), DEFAULT_LIMITS) == outcome


@pytest.mark.parametrize("size", [(65_000, 1), (1, 65_000), (14_143, 200)])
def test_a_picture_that_is_far_from_square_is_refused(size: tuple[int, int]) -> None:
    """Preprocessing makes it square: 65,000 x 1 pixels would take 13 GB."""
    buffer = io.BytesIO()
    Image.new("RGB", size, "white").save(buffer, "JPEG")
    assert len(buffer.getvalue()) < 100_000
    assert check(buffer.getvalue(), DEFAULT_LIMITS) == "too_many_pixels"
