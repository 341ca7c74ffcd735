"""Frames of DICOM objects as a server gets them: the phantom's pixels, or a reason; in bounded memory."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, get_frame
from pydicom.pixels.processing import convert_color_space
from tests.dicom.objects import coded, file_of, jpeg, ophthalmic, phantom, with_streams

from fundus_client.dicom.pixels import encoded_frame
from fundus_core.errors import ImageError, ImageReason
from fundus_core.images import DEFAULT_LIMITS, ImageLimits, decode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # as `part10` does for a process

RGB = phantom()
GREY = RGB[..., 1]
FRAMES = np.stack([RGB, RGB[::-1], RGB[:, ::-1]])
LOSSLESS = (
    uids.ImplicitVRLittleEndian,
    uids.ExplicitVRLittleEndian,
    uids.ExplicitVRBigEndian,
    uids.DeflatedExplicitVRLittleEndian,
    uids.JPEGLossless,
    uids.JPEGLosslessSV1,
    uids.JPEGLSLossless,
    uids.JPEG2000Lossless,
    uids.RLELossless,
)
KINDS: dict[str, tuple[Callable[[], Dataset], NDArray[np.uint8]]] = {
    "RGB": (lambda: ophthalmic(RGB), RGB),
    "grey": (lambda: ophthalmic(GREY), GREY),
    "16 bit RGB": (lambda: ophthalmic(RGB.astype(np.uint16) * 257), RGB),
    "12 of 16 bit": (lambda: ophthalmic(GREY.astype(np.uint16) * 16 + 9, BitsStored=12, HighBit=11), GREY),
    "odd width": (lambda: ophthalmic(RGB[:94, :127].copy()), RGB[:94, :127]),
}


def pixels_of(dataset: Dataset, frame: int = 1) -> NDArray[np.uint8]:
    return decode(encoded_frame(file_of(dataset), frame, DEFAULT_LIMITS))


def away(pixels: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Return how far pixels are from what is expected, in levels."""
    expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    return float(np.abs(pixels.astype(int) - expected).mean())


def refused(data: bytes, frame: int = 1, limits: ImageLimits = DEFAULT_LIMITS) -> ImageReason:
    with pytest.raises(ImageError) as error:
        encoded_frame(data, frame, limits)
    assert str(error.value).endswith(".")
    return error.value.reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_lossless_pixels_arrive_unchanged(syntax: uids.UID, kind: str) -> None:
    make, expected = KINDS[kind]
    assert away(pixels_of(coded(make(), syntax)), expected) == 0


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_each_frame_arrives_under_its_number(syntax: uids.UID) -> None:
    data = file_of(coded(ophthalmic(FRAMES), syntax))
    for number, expected in enumerate(FRAMES, start=1):
        assert away(decode(encoded_frame(data, number, DEFAULT_LIMITS)), expected) == 0
    assert refused(data, 0) == refused(data, 4) == "corrupt"


def planes_apart() -> Dataset:
    return ophthalmic(RGB, PlanarConfiguration=1, PixelData=RGB.transpose(2, 0, 1).tobytes())


def ybr_full() -> Dataset:
    samples = convert_color_space(RGB, "RGB", "YBR_FULL")
    return ophthalmic(samples, PhotometricInterpretation="YBR_FULL")


def ybr_full_422() -> Dataset:
    samples = convert_color_space(RGB, "RGB", "YBR_FULL")
    pairs = np.concatenate([samples[:, ::2, :1], samples[:, 1::2, :1], samples[:, ::2, 1:]], axis=2)
    return ophthalmic(RGB, PhotometricInterpretation="YBR_FULL_422", PixelData=pairs.tobytes())


def monochrome1() -> Dataset:
    return ophthalmic(255 - GREY, PhotometricInterpretation="MONOCHROME1")


def signed() -> Dataset:
    samples = (GREY.astype(np.int16) - 128) * 16
    attributes = {"PixelRepresentation": 1, "BitsStored": 12, "HighBit": 11}
    return ophthalmic(GREY.astype(np.uint16), PixelData=samples.tobytes(), **attributes)


def palette(n_bits: int) -> Dataset:
    """Return the object whose every index is its own grey, in colours that count backwards."""
    table = np.arange(256) if n_bits == 8 else np.arange(256) * 257
    dataset = ophthalmic(255 - GREY, PhotometricInterpretation="PALETTE COLOR", PresentationLUTShape=None)
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, n_bits])
        entries = table[::-1].astype(f"<u{n_bits // 8}").tobytes()
        setattr(dataset, f"{colour}PaletteColorLookupTableData", entries)
    return dataset


@pytest.mark.parametrize(
    ("make", "expected", "most"),
    [
        (planes_apart, RGB, 0),
        (ybr_full, RGB, 1),
        (ybr_full_422, RGB, 4),
        (monochrome1, GREY, 0),
        (signed, GREY, 0),
        (lambda: palette(8), GREY, 0),
        (lambda: palette(16), GREY, 0),
    ],
    ids=["planes", "YBR_FULL", "YBR_FULL_422", "MONOCHROME1", "signed", "palette 8", "palette 16"],
)
def test_every_interpretation_of_samples_gives_the_phantom(
    make: Callable[[], Dataset], expected: NDArray[np.uint8], most: float
) -> None:
    assert away(pixels_of(make()), expected) <= most


@pytest.mark.parametrize(
    "syntax",
    [uids.RLELossless, uids.JPEGLSLossless, uids.JPEGLosslessSV1, uids.JPEG2000Lossless],
    ids=lambda syntax: syntax.keyword,
)
def test_compressed_ybr_becomes_rgb_once(syntax: uids.UID) -> None:
    assert away(pixels_of(coded(ybr_full(), syntax)), RGB) < 1


@pytest.mark.parametrize("photometric", ["YBR_ICT", "RGB", "YBR_FULL", "YBR_FULL_422"])
def test_jpeg_2000_with_its_own_colour_transform_is_right_under_any_label(photometric: str) -> None:
    dataset = ophthalmic(RGB, PhotometricInterpretation="YBR_ICT")
    dataset.compress(uids.JPEG2000, j2k_cr=[4], generate_instance_uid=False)
    dataset.PhotometricInterpretation = photometric
    assert 0 < away(pixels_of(dataset), RGB) < 3


def test_a_lossless_jpeg_that_says_that_it_is_ycbcr_becomes_rgb() -> None:
    dataset = coded(ybr_full(), uids.JPEGLosslessSV1)
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    jfif = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    said = with_streams(dataset, [stream[:2] + jfif + stream[2:]], uids.JPEGLosslessSV1, "RGB")
    assert away(pixels_of(said), RGB) < 1


def test_bytes_of_8_bit_samples_in_big_endian_words_are_swapped() -> None:
    dataset = coded(ophthalmic(RGB), uids.ExplicitVRBigEndian)
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
    dataset["PixelData"].VR = "OW"
    assert away(pixels_of(dataset), RGB) == 0


def test_the_bits_are_those_of_the_stream_where_the_header_promises_more() -> None:
    dataset = coded(KINDS["12 of 16 bit"][0](), uids.JPEGLSLossless)
    dataset.BitsStored, dataset.HighBit = 16, 15
    assert away(pixels_of(dataset), GREY) == 0
    dataset.BitsAllocated, dataset.BitsStored = 8, 8
    assert refused(file_of(dataset)) == "corrupt"


def test_near_lossless_jpeg_ls_is_near() -> None:
    dataset = ophthalmic(RGB)
    dataset.compress(uids.JPEGLSNearLossless, jls_error=3, generate_instance_uid=False)
    assert 0 < away(pixels_of(dataset), RGB) < 3


@pytest.mark.skipif(not shutil.which("dcmcjpeg"), reason="dcmcjpeg (Debian's dcmtk) is not installed")
@pytest.mark.parametrize("colours", ["+cy", "+cr"])
def test_jpeg_of_12_bits_is_decoded(colours: str, tmp_path: Path) -> None:
    native = ophthalmic(RGB.astype(np.uint16) * 16, BitsStored=12, HighBit=11)
    (tmp_path / "native.dcm").write_bytes(file_of(native))
    line = ["dcmcjpeg", "+ee", "+q", "95", colours, tmp_path / "native.dcm", tmp_path / "coded.dcm"]
    subprocess.run(line, check=True)
    data = (tmp_path / "coded.dcm").read_bytes()
    assert away(decode(encoded_frame(data, 1, DEFAULT_LIMITS)), RGB) < 3


def test_a_video_is_not_decoded() -> None:
    dataset = with_streams(ophthalmic(RGB), [bytes(100)], uids.MPEG4HP41, "YBR_PARTIAL_420")
    assert refused(file_of(dataset)) == "not_an_image"
    dataset.PhotometricInterpretation = "RGB"
    with pytest.raises(ImageError, match="MPEG-4"):
        encoded_frame(file_of(dataset), 1, DEFAULT_LIMITS)


STREAMS = [jpeg(frame) for frame in FRAMES]


def without_table() -> bytes:
    return encapsulate(STREAMS, has_bot=False)


def in_fragments(has_bot: bool) -> bytes:
    return encapsulate(STREAMS, fragments_per_frame=3, has_bot=has_bot)


@pytest.mark.parametrize(
    "pixel_data",
    [encapsulate(STREAMS), without_table(), in_fragments(True), in_fragments(False)],
    ids=["table", "no table", "fragments, table", "fragments, no table"],
)
def test_frames_are_found_among_fragments(pixel_data: bytes) -> None:
    dataset = with_streams(ophthalmic(FRAMES), STREAMS, uids.JPEGBaseline8Bit, "YBR_FULL_422")
    dataset.PixelData = pixel_data
    data = file_of(dataset)
    for number, stream in enumerate(STREAMS, start=1):
        assert encoded_frame(data, number, DEFAULT_LIMITS).rstrip(b"\0") == stream


def test_frames_are_found_by_an_extended_table() -> None:
    """It passes over the second fragment, which only shows that nothing else was asked."""
    dataset = with_streams(ophthalmic(FRAMES), STREAMS, uids.JPEGBaseline8Bit, "YBR_FULL_422")
    dataset.PixelData, offsets, lengths = encapsulate_extended(STREAMS)
    dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = (
        table[:8] + table[16:] for table in (offsets, lengths)
    )
    dataset.NumberOfFrames = 2
    data = file_of(dataset)
    for number, stream in ((1, STREAMS[0]), (2, STREAMS[2])):
        assert encoded_frame(data, number, DEFAULT_LIMITS).rstrip(b"\0") == stream
