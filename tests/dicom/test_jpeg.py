"""JPEG streams of DICOM objects: the right colours, whatever the labels say; nothing that is cut off."""

import io
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid as uids
from tests.dicom.objects import file_of, ophthalmic, phantom, with_streams

from fundus_client.dicom.jpeg import jpeg2000_stream, jpeg_stream
from fundus_client.dicom.pixels import encoded_frame
from fundus_core.errors import ImageError
from fundus_core.images import DEFAULT_LIMITS, decode
from fundus_core.metadata import without_metadata

APPLICATION = range(0xE0, 0xF0)


def pillow(pixels: NDArray[np.uint8], **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def bare(stream: bytes, ids: bytes | None = None) -> bytes:
    """Return the stream without JFIF and Adobe segments; `ids` take the place of its components' ones."""
    at, kept = 2, bytearray(stream[:2])
    while True:
        code = stream[at + 1]
        end = at + 2 + struct.unpack_from(">H", stream, at + 2)[0]
        segment = bytearray(stream[at:end])
        if ids and code in (0xC0, 0xC2):
            segment[10::3] = ids
        if ids and code == 0xDA:
            segment[5:11:2] = ids
        if code not in APPLICATION:
            kept += segment
        at = end
        if code == 0xDA:
            return bytes(kept) + stream[at:]


GREY = pillow(phantom()[..., 1])
YCC, YCC_444 = pillow(phantom()), pillow(phantom(), subsampling=0)
RGB = pillow(phantom(), keep_rgb=True)  # an Adobe segment says so, and the components' ids do
ADOBE_YCC = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1"
STREAMS = {
    "YCbCr, JFIF": (YCC, ("YBR_FULL_422", "YBR_FULL", "RGB")),
    "YCbCr, JFIF, progressive": (pillow(phantom(), progressive=True), ("YBR_FULL_422", "RGB")),
    "YCbCr, 4:4:4, JFIF": (YCC_444, ("YBR_FULL", "RGB")),
    "YCbCr, no marker": (bare(YCC), ("YBR_FULL_422", "RGB")),
    "YCbCr, 4:4:4, no marker": (bare(YCC_444), ("YBR_FULL",)),
    "YCbCr, 4:4:4, Adobe": (YCC_444[:2] + ADOBE_YCC + bare(YCC_444)[2:], ("YBR_FULL", "RGB")),
    "RGB, Adobe": (RGB, ("RGB", "YBR_FULL")),
    "RGB, ids": (bare(RGB), ("RGB", "YBR_FULL")),
    "RGB, no marker": (bare(RGB, b"\1\2\3"), ("RGB",)),
    "RGB, no marker, ids from 0": (bare(RGB, b"\0\1\2"), ("RGB",)),
}
CASES = [(name, photometric) for name, (_, labels) in STREAMS.items() for photometric in labels]


def frame_of(stream: bytes, photometric: str = "YBR_FULL_422", **attributes: object) -> bytes:
    native = ophthalmic(phantom(), **attributes)
    data = file_of(with_streams(native, [stream], uids.JPEGBaseline8Bit, photometric))
    return encoded_frame(data, 1, DEFAULT_LIMITS)


def away(pixels: NDArray[np.uint8]) -> float:
    """Return how far pixels are from those of the phantom, in levels."""
    return float(np.abs(pixels.astype(int) - phantom()).mean())


def test_the_streams_of_these_tests_are_as_different_as_their_names_say() -> None:
    """A decoder that is told nothing gets just those wrong that say nothing."""
    wrong = {name for name, (stream, _) in STREAMS.items() if away(decode(stream)) > 5}
    assert wrong == {"RGB, no marker", "RGB, no marker, ids from 0"}


@pytest.mark.parametrize(("name", "photometric"), CASES)
def test_the_colours_are_right_whatever_is_labelled(name: str, photometric: str) -> None:
    sent = frame_of(STREAMS[name][0], photometric)
    assert away(decode(sent)) < 3
    assert np.array_equal(decode(without_metadata(sent)), decode(sent))


@pytest.mark.parametrize("name", [name for name in STREAMS if "no marker" not in name])
def test_a_stream_that_tells_its_colours_goes_as_it_is(name: str) -> None:
    stream, labels = STREAMS[name]
    assert frame_of(stream, labels[0]).rstrip(b"\0") == stream


def test_grey_goes_as_it_is() -> None:
    assert frame_of(GREY, "MONOCHROME2", SamplesPerPixel=1).rstrip(b"\0") == GREY


def test_dark_is_white_in_a_jpeg_of_monochrome1() -> None:
    pixels = decode(frame_of(GREY, "MONOCHROME1", SamplesPerPixel=1))
    assert np.abs(255 - pixels[..., 0].astype(int) - phantom()[..., 1]).mean() < 3


@pytest.mark.parametrize("n_bytes", [1, 100, 2000])
def test_a_stream_without_its_end_is_refused(n_bytes: int) -> None:
    with pytest.raises(ImageError) as refused:
        frame_of(YCC[: -2 - n_bytes])
    assert refused.value.reason == "corrupt"


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_stream_of_many_scans_is_not_decoded(photometric: str) -> None:
    """Each goes over all pixels, however few bytes it has."""
    scans = pillow(phantom()[..., 1], progressive=True)
    last = scans[scans.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="scans; the limit is 100"):
        frame_of(scans[:-2] + 100 * last + scans[-2:], photometric, SamplesPerPixel=1)


@pytest.mark.parametrize("padding", [b"", b"\0", b"\0\0\0", b"\xff\xff"])
def test_padding_behind_the_end_is_no_harm(padding: bytes) -> None:
    assert away(decode(frame_of(YCC + padding))) < 3


@pytest.mark.parametrize("said", [{"Rows": 95}, {"Columns": 95}])
def test_a_stream_of_another_size_than_the_header_says_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(ImageError, match="its header says") as refused:
        frame_of(YCC, **said)
    assert refused.value.reason == "corrupt"


def test_a_grey_stream_under_a_colour_header_is_refused() -> None:
    with pytest.raises(ImageError, match="its header says"):
        frame_of(GREY)


def test_the_frame_of_a_thumbnail_is_not_taken_for_that_of_the_picture() -> None:
    segment = b"\xff\xe1" + struct.pack(">H", 1002) + bare(RGB)[:1000]
    found = jpeg_stream(YCC[:2] + segment + YCC[2:])
    assert (found.rows, found.columns, found.is_rgb) == (96, 128, False)


def test_a_jpeg_2000_stream_is_found_within_a_jp2_file() -> None:
    buffer = io.BytesIO()
    Image.fromarray(phantom()).save(buffer, "JPEG2000", mct=1, no_jp2=False)
    found = jpeg2000_stream(buffer.getvalue())
    assert (found.rows, found.columns, found.components, found.precision) == (96, 128, 3, 8)
    assert found.is_rgb
