"""No text of a file leaves the machine, and the decoder sees the same picture."""

import io
import struct
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.mutations import SEEDS, mutated
from tests.planted import (
    BMP,
    CMYK,
    ENCODINGS,
    JPEG,
    PICTURE,
    PIXELS,
    PLANTED,
    PNG,
    between_scans,
    bmp_of_runs,
    chunk,
    encoded,
    exif,
    has_name,
    interlaced,
    png_of,
    png_with,
    segment,
)
from tests.planted_tiff import BYTES, DATE, NAME, RGB, tiff

from fundus_core import metadata
from fundus_core.errors import ImageError
from fundus_core.files import find_images
from fundus_core.images import ImageLimits, decode
from fundus_core.metadata import NO_IMAGE, without_metadata

LIMITS = ImageLimits(max_pixels=200_000)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (330, 600, 3), np.uint8))


def outcome(data: bytes) -> tuple[str, bytes]:
    """What `decode` makes of it: shape and pixels, or the reason why there are none."""
    try:
        pixels = decode(data, LIMITS)
    except ImageError as error:
        return error.reason, b""
    return str(pixels.shape), pixels.tobytes()


@pytest.mark.parametrize("data", PLANTED.values(), ids=PLANTED)
def test_no_name_is_left_and_every_pixel_is(data: bytes) -> None:
    assert has_name(data)
    clean = without_metadata(data)
    assert not has_name(clean)
    assert decode(data).shape == (60, 88, 3)
    assert outcome(clean) == outcome(data)


@pytest.mark.parametrize("data", PLANTED.values(), ids=PLANTED)
def test_pillow_finds_nothing_but_the_picture(data: bytes) -> None:
    """Also what is compressed, and so not found by its bytes."""
    with Image.open(io.BytesIO(without_metadata(data))) as image:
        assert image.format == "PNG" or getattr(image, "n_frames", 1) == 1  # an animation stays announced
        image.load()
        assert set(image.info) <= {
            *("jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "adobe", "adobe_transform"),
            *("progressive", "progression", "compression", "resolution"),
            *("loop", "default_image", "bbox", "duration", "disposal", "blend"),  # numbers of an animation
        }
        assert not set(image.getexif()) & {270, 271, 272, 305, 306, 315, 700, 34665, 34853, 42112}


@pytest.mark.parametrize("data", PLANTED.values(), ids=PLANTED)
def test_what_is_cut_off_has_the_same_reason_and_no_name(data: bytes) -> None:
    for place in (*range(0, 400, 7), *np.linspace(400, len(data), 60, dtype=int)):
        cut = data[:place]
        assert outcome(without_metadata(cut)) == outcome(cut)
        assert not has_name(without_metadata(cut))


WITHOUT = {
    "jpeg": JPEG,
    "jpeg progressive": encoded(PICTURE, "JPEG", progressive=True),
    "jpeg with restarts": encoded(PICTURE, "JPEG", restart_marker_blocks=3),
    "jpeg large": encoded(NOISE, "JPEG", quality=100, subsampling=0),
    "jpeg large, with restarts": encoded(NOISE, "JPEG", quality=100, subsampling=0, restart_marker_rows=1),
    "jpeg grey": encoded(PICTURE.convert("L"), "JPEG"),
    "jpeg cmyk": CMYK,
    "png": PNG,
    "png interlaced": interlaced(),
    "png palette with transparency": encoded(PICTURE.quantize(32), "PNG", transparency=3),
    "png with a transparent colour": encoded(PICTURE, "PNG", transparency=tuple(RGB[0, 0].tolist())),
    "png 16 bit": cv2.imencode(".png", RGB.astype(np.uint16) * 257)[1].tobytes(),
    "bmp": BMP,
    "bmp palette": encoded(PICTURE.quantize(64), "BMP"),
    "bmp 1 bit": encoded(PICTURE.convert("1"), "BMP"),
    "bmp of runs": bmp_of_runs(),
}


@pytest.mark.parametrize("data", WITHOUT.values(), ids=WITHOUT)
def test_a_picture_without_metadata_is_not_even_copied(data: bytes) -> None:
    assert len(outcome(data)[1]) > 0
    assert without_metadata(data) is data


@pytest.mark.parametrize("kind", [b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"pHYs"])
def test_chunks_about_colour_change_no_pixel_of_the_decoder(kind: bytes) -> None:
    bodies = {b"gAMA": struct.pack(">I", 9_000), b"cHRM": struct.pack(">8I", *range(1, 9)), b"sRGB": b"\2"}
    bodies |= {
        b"sBIT": b"\2\2\2",
        b"bKGD": bytes(6),
        b"hIST": bytes(512),
        b"pHYs": bytes(9),
        b"tIME": bytes(7),
    }
    data = png_with(chunk(kind, bodies[kind]))
    assert kind not in without_metadata(data)
    assert outcome(without_metadata(data)) == outcome(data) == outcome(PNG)


def test_a_jpeg_keeps_the_marker_that_says_rgb() -> None:
    """Without it the decoder takes RGB for YCbCr."""
    data = JPEG[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\0") + JPEG[20:]
    assert outcome(data) != outcome(JPEG[:2] + JPEG[20:])
    assert without_metadata(data[:2] + segment(0xE1, BYTES) + data[2:]) == data


def test_the_end_of_a_scan_is_found_wherever_a_step_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    data = between_scans(segment(0xFE, BYTES))
    clean = without_metadata(data)
    for n_bytes in range(1, 100):
        monkeypatch.setattr(metadata, "_STEP_BYTES", n_bytes)
        assert without_metadata(data) == clean


def test_only_the_first_picture_is_left() -> None:
    def written(format_: str, *more: Image.Image) -> bytes:
        return encoded(PICTURE, format_, save_all=True, append_images=more)

    assert without_metadata(written("MPO", PICTURE.rotate(9))) == JPEG
    assert len(without_metadata(written("PNG", PICTURE.rotate(9)))) < len(PNG) + 200
    assert without_metadata(written("TIFF", PICTURE.rotate(9))) == without_metadata(written("TIFF"))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_packed_strip_of_unknown_length_is_whole(order: str) -> None:
    """What follows it stays."""
    data = tiff(order, form="packed without lengths")
    assert outcome(without_metadata(data)) == outcome(data) == (str(RGB.shape), RGB.tobytes())


CRITICAL, TEXT, EMPTY = chunk(b"NAme", BYTES), chunk(b"tEXt", b"a\0" + BYTES), chunk(b"IDAT", b"")
REFUSED = {
    "wrong checksum of a text": (png_with(CRITICAL[:4] + b"tEXt" + BYTES + bytes(4)), "not_an_image"),
    "unknown chunk that is critical": (png_with(CRITICAL), "corrupt"),
    "chunk without a name": (png_with(chunk(b"\0\1\2\3", BYTES)), "not_an_image"),
    "text between the pixels": (png_of(PIXELS[:99], b"", PIXELS[99:]).replace(EMPTY, TEXT), "corrupt"),
    "text before the header": (PNG[:8] + chunk(b"tEXt", BYTES) + PNG[8:], "corrupt"),
    "jpeg in a bmp": (BMP[:30] + b"\4" + BMP[31:54] + BYTES, "corrupt"),
    "bmp header of no known kind": (BMP[:14] + b"\x29" + BMP[15:54] + BYTES, "corrupt"),
    "jpeg of 12 bits": (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c") + BYTES, "not_an_image"),
    "tiff of floats": (tiff(form="floats"), "not_an_image"),
    "tiff of floats, by an old tag": (tiff(form="floats, by an old tag"), "corrupt"),
    "bigtiff that is big-endian": (tiff(">", big=True), "not_an_image"),
    "too many pixels": (encoded(Image.new("1", (900, 900)), "PNG") + BYTES, "too_many_pixels"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_has_the_same_reason_and_no_name(data: bytes, reason: str) -> None:
    assert outcome(data) == outcome(without_metadata(data)) == (reason, b"")
    assert has_name(data)
    assert not has_name(without_metadata(data))


NO_IMAGES = {
    "dicom": bytes(128) + b"DICM" + BYTES,
    "dicom with a name before it": BYTES.ljust(128, b"\0") + b"DICM",
    "zip": b"PK\3\4" + bytes(26) + BYTES,
    "gif": encoded(PICTURE, "GIF", comment=BYTES),
    "webp": encoded(PICTURE, "WEBP", exif=exif()),
    "text": BYTES * 100,
}


@pytest.mark.parametrize("data", NO_IMAGES.values(), ids=NO_IMAGES)
def test_of_what_is_no_image_nothing_is_left(data: bytes) -> None:
    assert outcome(data) == ("not_an_image", b"")
    assert without_metadata(data) == NO_IMAGE
    assert outcome(NO_IMAGE) == ("not_an_image", b"")


def test_an_empty_file_stays_one() -> None:
    assert without_metadata(b"") == b""


MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"II\0*",
    b"MM*\0",
)


@pytest.mark.parametrize("magic", MAGIC)
def test_of_text_behind_a_format_s_first_bytes_nothing_is_left(magic: bytes) -> None:
    for encoding, text in product(ENCODINGS, (DATE, DATE * 40, NAME * 40)):
        data = magic + text.encode(encoding)
        assert not has_name(without_metadata(data))
        assert outcome(without_metadata(data)) == outcome(data)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(MAGIC), st.binary(max_size=400))
def test_any_bytes_have_the_same_outcome(magic: bytes, rest: bytes) -> None:
    assert outcome(without_metadata(magic + rest)) == outcome(magic + rest)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(list(SEEDS)), st.integers(0, 2**32))
def test_a_damaged_picture_has_the_same_outcome(name: str, seed: int) -> None:
    data = mutated(name, seed)
    assert outcome(without_metadata(data)) == outcome(data)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(list(PLANTED)), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1))
def test_damage_never_costs_a_pixel(name: str, damage: list[tuple[float, int]]) -> None:
    """A picture may be scored after all, where only metadata was damaged; no picture is lost or changed."""
    data = bytearray(PLANTED[name])
    for place, value in damage:
        data[int(place * (len(data) - 1))] = value
    before, after = outcome(bytes(data)), outcome(without_metadata(bytes(data)))
    assert after == before or not before[1]


def test_real_photographs_keep_every_byte_but_what_was_planted(photographs: Path) -> None:
    planted = segment(0xE1, b"Exif\0\0" + BYTES) + segment(0xFE, BYTES)
    files = [ref.path for ref in find_images([photographs])]
    assert files
    for path in files:
        data = path.read_bytes()
        clean = without_metadata(data)
        if data.startswith(b"\xff\xd8\xff"):
            assert without_metadata(data[:2] + planted + data[2:] + BYTES) == clean
        assert clean is data or np.array_equal(decode(clean), decode(data))


def fastest_s(call: Callable[[bytes], object], data: bytes, repeats: int) -> float:
    times_s = []
    for _ in range(repeats):
        started = time.perf_counter()
        call(data)
        times_s.append(time.perf_counter() - started)
    return min(times_s)


@pytest.mark.parametrize(("side_px", "quality", "n_bytes"), [(620, 90, 100_000), (3300, 96, 5_000_000)])
def test_it_costs_next_to_nothing_beside_decoding(side_px: int, quality: int, n_bytes: int) -> None:
    noise = np.random.default_rng(0).integers(0, 24, (side_px, side_px, 3), np.uint8)
    picture = cv2.resize(RGB, (side_px, side_px)) // 2 + noise
    data = encoded(Image.fromarray(picture), "JPEG", quality=quality, exif=exif())
    assert len(data) == pytest.approx(n_bytes, rel=0.2)
    own_s, decoding_s = fastest_s(without_metadata, data, 50), fastest_s(decode, data, 2)
    sys.stdout.write(f"{len(data):,} bytes: {own_s * 1e6:.0f} us, 1/{decoding_s / own_s:.0f} of decoding\n")
    assert own_s < decoding_s / 20
