import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fundus_core import phantoms
from fundus_core.errors import IMAGE_REASONS, ImageError
from fundus_core.images import DEFAULT_LIMITS, ImageLimits, decode, decode_reduced, reduce, reduction

RNG = np.random.default_rng(0)
RGB = cv2.resize(RNG.integers(0, 256, (6, 8, 3), np.uint8), (88, 60), interpolation=cv2.INTER_CUBIC)
GREY = RGB[..., 1]
RGB16 = RNG.integers(0, 2**16, (60, 88, 3), np.uint16)
ALPHA = np.linspace(0, 255, GREY.size).astype(np.uint8).reshape(GREY.shape)


def encoded(pixels: Image.Image | np.ndarray, format_: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def by_opencv(suffix: str, pixels: np.ndarray) -> bytes:
    """Encode RGB, RGBA or grey; Pillow writes no 16-bit colour."""
    order = [2, 1, 0, 3][: pixels.shape[2]] if pixels.ndim == 3 else None
    return cv2.imencode(suffix, pixels if order is None else pixels[..., order])[1].tobytes()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def mode(name: str) -> Image.Image:
    image = Image.fromarray(RGB)
    return image.quantize(32) if name == "P" else image.convert(name)


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def with_thumbnail(jpeg: bytes) -> bytes:
    """Put an Exif segment with a whole small JPEG behind the first marker, as cameras do."""
    small = encoded(Image.fromarray(RGB).resize((32, 22)), "JPEG")
    entries = struct.pack("<HHIIHHIII", 0x201, 4, 1, 44, 0x202, 4, 1, len(small), 0)
    tiff = b"II*\0" + struct.pack("<IHI", 8, 0, 14) + struct.pack("<H", 2) + entries
    body = b"Exif\0\0" + tiff + small
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


LOSSLESS = {
    "png": (encoded(RGB, "PNG"), RGB),
    "png grey": (encoded(GREY, "PNG"), three(GREY)),
    "png alpha is dropped": (encoded(np.dstack([RGB, ALPHA]), "PNG"), RGB),
    "png transparent colour is dropped": (encoded(RGB, "PNG", transparency=tuple(RGB[0, 0].tolist())), RGB),
    "png gamma is ignored": (encoded(RGB, "PNG", gamma=1.0), RGB),
    "png 16 bit keeps the high byte": (by_opencv(".png", RGB16), RGB16 >> 8),
    "png 16 bit grey": (by_opencv(".png", RGB16[..., 0]), three(RGB16[..., 0] >> 8)),
    "png 16 bit alpha": (by_opencv(".png", np.dstack([RGB16, RGB16[..., 0]])), RGB16 >> 8),
    "tiff": (encoded(RGB, "TIFF"), RGB),
    "tiff lzw": (encoded(RGB, "TIFF", compression="tiff_lzw"), RGB),
    "tiff deflate": (encoded(RGB, "TIFF", compression="tiff_deflate"), RGB),
    "tiff packbits": (encoded(RGB, "TIFF", compression="packbits"), RGB),
    "tiff grey": (encoded(GREY, "TIFF"), three(GREY)),
    "tiff white is zero": (encoded(GREY, "TIFF", tiffinfo={262: 0}), three(GREY)),
    "tiff alpha is dropped": (encoded(np.dstack([RGB, ALPHA]), "TIFF"), RGB),
    "tiff lzw alpha is dropped": (encoded(np.dstack([RGB, ALPHA]), "TIFF", compression="tiff_lzw"), RGB),
    "tiff 16 bit grey": (by_opencv(".tif", RGB16[..., 0]), three(RGB16[..., 0] >> 8)),
    "bigtiff": (encoded(RGB, "TIFF", big_tiff=True), RGB),
    "tiff of two pages": (encoded(RGB, "TIFF", save_all=True, append_images=[mode("L")]), RGB),
    "bmp": (encoded(RGB, "BMP"), RGB),
    "bmp grey": (encoded(GREY, "BMP"), three(GREY)),
    "bmp alpha is dropped": (encoded(np.dstack([RGB, ALPHA]), "BMP"), RGB),
}

# A JPEG's pixels, and those of a palette, are what Pillow makes of the same bytes.
AS_PILLOW = {
    "jpeg": encoded(RGB, "JPEG"),
    "jpeg without subsampling": encoded(RGB, "JPEG", quality=97, subsampling=0),
    "jpeg grey": encoded(GREY, "JPEG"),
    "jpeg progressive": encoded(RGB, "JPEG", progressive=True),
    "jpeg cmyk": encoded(mode("CMYK"), "JPEG"),
    "jpeg with thumbnail": with_thumbnail(encoded(RGB, "JPEG")),
    "jpeg of two pictures (MPO)": encoded(RGB, "MPO", save_all=True, append_images=[mode("L")]),
    "png palette": encoded(mode("P"), "PNG"),
    "png palette with transparency": encoded(mode("P"), "PNG", transparency=3),
    "png 1 bit": encoded(mode("1"), "PNG"),
    "png grey and alpha": encoded(mode("LA"), "PNG"),
    "tiff palette": encoded(mode("P"), "TIFF"),
    "tiff 1 bit": encoded(mode("1"), "TIFF"),
    "tiff fax": encoded(mode("1"), "TIFF", compression="group4"),
    "tiff jpeg": encoded(RGB, "TIFF", compression="jpeg"),
    "tiff cmyk": encoded(mode("CMYK"), "TIFF"),
    "bmp palette": encoded(mode("P"), "BMP"),
    "bmp 1 bit": encoded(mode("1"), "BMP"),
}


@pytest.mark.parametrize(("data", "expected"), LOSSLESS.values(), ids=LOSSLESS)
def test_a_lossless_format_gives_exactly_its_pixels(data: bytes, expected: np.ndarray) -> None:
    pixels = decode(data)
    assert (pixels.shape, pixels.dtype) == (RGB.shape, np.uint8)
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("data", AS_PILLOW.values(), ids=AS_PILLOW)
def test_a_format_gives_the_pixels_that_pillow_sees(data: bytes) -> None:
    pixels = decode(data)
    assert (pixels.shape, pixels.dtype) == (RGB.shape, np.uint8)
    assert np.abs(pixels.astype(int) - by_pillow(data)).max() <= 1


def test_colour_of_16_bit_tiff_is_right_to_one_level() -> None:
    for pixels in (RGB16, np.dstack([RGB16, RGB16[..., 0]])):
        difference = decode(by_opencv(".tif", pixels)) - RGB16 / 257
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize(
    "encode",
    [
        lambda exif, tag: (encoded(RGB, "JPEG", exif=exif), encoded(RGB, "JPEG")),
        lambda exif, tag: (encoded(RGB, "PNG", exif=exif), encoded(RGB, "PNG")),
        lambda exif, tag: (encoded(RGB, "TIFF", tiffinfo=tag), encoded(RGB, "TIFF")),
        lambda exif, tag: (encoded(mode("P"), "TIFF", tiffinfo=tag), encoded(mode("P"), "TIFF")),
        lambda exif, tag: (encoded(RGB16[..., 0], "TIFF", tiffinfo=tag), encoded(RGB16[..., 0], "TIFF")),
    ],
    ids=["jpeg", "png", "tiff", "tiff palette", "tiff 16 bit"],
)
def test_the_orientation_tag_turns_nothing(
    encode: Callable[..., tuple[bytes, bytes]], orientation: int
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    turned, upright = encode(exif, {274: orientation})
    assert turned != upright
    assert np.array_equal(decode(turned), decode(upright))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"no picture, whatever the file is called\n" * 100, "not_an_image"),
        (encoded(RGB, "GIF"), "not_an_image"),
        (encoded(RGB, "WEBP"), "not_an_image"),
        (b"\xff\xd8\xff\xd9", "not_an_image"),
        (png_header(0, 10), "not_an_image"),
        (png_header(10, 0), "not_an_image"),
        (png_header(60_000, 60_000), "too_many_pixels"),
        (png_header(2**31 - 1, 2**31 - 1), "too_many_pixels"),
        (png_header(64, 64), "corrupt"),  # announces more than it holds
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_usable_image_has_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.reason == reason


def test_the_limits_hold_to_the_pixel_and_to_the_byte() -> None:
    data, height, width = encoded(RGB, "PNG"), *RGB.shape[:2]
    assert decode(data, ImageLimits(len(data), height * width)).shape == RGB.shape
    with pytest.raises(ImageError, match=r"the limit is 5,279 pixels") as caught:
        decode(data, ImageLimits(len(data), height * width - 1))
    assert caught.value.reason == "too_many_pixels"
    with pytest.raises(ImageError) as caught:
        decode(data, ImageLimits(len(data) - 1, height * width))
    assert caught.value.reason == "too_large"


BOMB_PX = (12_000, 9_000)
DECODE_ALONE = """
import json, sys
from pathlib import Path
from fundus_core.images import ImageError, ImageLimits, decode

def peak_mib():
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent's memory too
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

data, limit = Path(sys.argv[1]).read_bytes(), int(sys.argv[2])
before = peak_mib()
try:
    said = decode(data, ImageLimits(max_pixels=limit)).shape
except ImageError as error:
    said = error.reason
print(json.dumps([said, peak_mib() - before]))
"""


@pytest.mark.parametrize(
    ("limit", "said", "least_mib", "most_mib"),
    [(DEFAULT_LIMITS.max_pixels, "too_many_pixels", 0, 20), (108_000_000, [9_000, 12_000, 3], 300, 2000)],
    ids=["refused without decoding", "decoded just below the limit"],
)
def test_a_small_file_of_many_pixels_is(
    limit: int, said: object, least_mib: int, most_mib: int, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", BOMB_PX).save(bomb)
    assert bomb.stat().st_size < 100_000
    line = [sys.executable, "-c", DECODE_ALONE, str(bomb), str(limit)]
    answer, grown_mib = json.loads(subprocess.check_output(line, text=True))
    assert answer == said
    assert least_mib <= grown_mib <= most_mib


LARGE = cv2.resize(RGB, (440, 300))
CUTTABLE = {
    "jpeg": encoded(LARGE, "JPEG"),
    "jpeg progressive": encoded(LARGE, "JPEG", progressive=True),
    "jpeg with thumbnail": with_thumbnail(encoded(LARGE, "JPEG")),
    "png": encoded(LARGE, "PNG"),
    "tiff": encoded(LARGE, "TIFF"),
    "tiff lzw": encoded(LARGE, "TIFF", compression="tiff_lzw"),
    "tiff jpeg": encoded(LARGE, "TIFF", compression="jpeg"),
    "bmp": encoded(LARGE, "BMP"),
}


@pytest.mark.parametrize("data", CUTTABLE.values(), ids=CUTTABLE)
@pytest.mark.parametrize("kept", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, -2, -1])
def test_a_file_that_was_cut_never_gives_pixels(data: bytes, kept: float) -> None:
    assert decode(data).shape == LARGE.shape
    cut = data[: int(kept) if kept < 0 else int(len(data) * kept)]
    with pytest.raises(ImageError) as caught:
        decode(cut)
    assert caught.value.reason in ("corrupt", "not_an_image")


@given(st.integers(1, 20_000), st.integers(2, 2_000))
def test_a_side_is_halved_as_often_as_it_keeps_its_least(side: int, least: int) -> None:
    times = reduction(side, least)
    assert times == 1 or -(-side // times) >= least
    assert -(-side // (2 * times)) < least
    assert reduction(-(-side // times), least) == reduction(max(1, side // times), least) == 1


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "BMP"])
@pytest.mark.parametrize(
    ("least_px", "shape", "times"), [(301, (300, 440, 3), 1), (150, (150, 220, 3), 2), (40, (75, 110, 3), 4)]
)
def test_an_image_is_reduced_to_what_is_asked_for(
    format_: str, least_px: int, shape: tuple[int, ...], times: int
) -> None:
    pixels, by = decode_reduced(encoded(LARGE, format_), DEFAULT_LIMITS, least_px)
    assert (pixels.shape, by) == (shape, times)
    expected, _ = reduce(LARGE, least_px)
    assert np.abs(pixels.astype(int) - expected).mean() < (4 if format_ == "JPEG" else 1e-9)
    assert reduce(pixels, least_px)[0] is pixels


def test_a_photograph_decoded_at_a_fraction_is_the_mean_of_its_pixels_within_a_grey_level() -> None:
    whole = cv2.resize(phantoms.render(0).pixels, (2001, 1603))
    data = encoded(whole, "JPEG", quality=90)
    pixels, times = decode_reduced(data, DEFAULT_LIMITS, 400)
    mean, _ = reduce(decode(data), 400)
    assert (pixels.shape, times) == ((401, 501, 3), 4)
    assert np.abs(pixels[:400, :500].astype(int) - mean).mean() < 1


@pytest.mark.parametrize("data", CUTTABLE.values(), ids=CUTTABLE)
@pytest.mark.parametrize("kept", [0.3, 0.9, -2])
def test_a_file_that_was_cut_never_gives_fewer_pixels_either(data: bytes, kept: float) -> None:
    assert decode_reduced(data, DEFAULT_LIMITS, 75)[1] == 4
    with pytest.raises(ImageError):
        decode_reduced(data[: int(kept) if kept < 0 else int(len(data) * kept)], DEFAULT_LIMITS, 75)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_whose_second_half_is_zeros_never_gives_pixels(progressive: bool) -> None:
    data = encoded(LARGE, "JPEG", progressive=progressive)
    half = len(data) // 2
    with pytest.raises(ImageError, match="cut off or damaged"):
        decode(data[:half] + bytes(len(data) - half))


def test_the_first_picture_of_an_mpo_is_whole_without_the_second() -> None:
    first = encoded(LARGE, "MPO", save_all=True, append_images=[Image.new("RGB", (440, 300))])
    assert np.array_equal(decode(first[:-100]), by_pillow(first))


SMALL_LIMITS = ImageLimits(max_pixels=200_000)
VALID = [data for data, _ in LOSSLESS.values()] + list(AS_PILLOW.values())
MAGIC = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"BM"]


def is_pixels_or_a_reason(data: bytes) -> None:
    try:
        pixels = decode(data, SMALL_LIMITS)
    except ImageError as error:
        assert error.reason in IMAGE_REASONS
        assert str(error)
    else:
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
        assert 0 < pixels.shape[0] * pixels.shape[1] <= SMALL_LIMITS.max_pixels


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(MAGIC), st.binary(max_size=400))
def test_any_bytes_give_pixels_or_a_reason(magic: bytes, rest: bytes) -> None:
    is_pixels_or_a_reason(magic + rest)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(VALID), st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4))), st.data()
)
def test_a_damaged_file_gives_pixels_or_a_reason(
    data: bytes, damage: list[tuple[float, bytes]], draw: st.DataObject
) -> None:
    damaged = bytearray(data)
    head = draw.draw(st.sampled_from([64, 256, len(data)]), label="damage is within the first bytes")
    for place, junk in damage:
        at = int(place * min(head, len(data)))
        damaged[at : at + len(junk)] = junk
    is_pixels_or_a_reason(bytes(damaged))
