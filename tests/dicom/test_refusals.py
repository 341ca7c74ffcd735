"""Damaged, hostile and oversized DICOM objects: a reason, quickly, in bounded memory."""

import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid as uids
from pydicom.encaps import encapsulate
from tests.dicom.objects import coded, file_of, jpeg, ophthalmic, phantom, photograph, with_streams
from tests.dicom.test_pixels import FRAMES, LOSSLESS, STREAMS, away, palette, refused

from fundus_client.dicom import part10
from fundus_client.dicom.header import read_header
from fundus_client.dicom.pixels import encoded_frame
from fundus_core.errors import IMAGE_REASONS, ImageError, MissingExtraError
from fundus_core.images import DEFAULT_LIMITS, ImageLimits, decode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # as `part10` does for a process

RGB = phantom()


@pytest.mark.parametrize(
    "syntax", [None, uids.ExplicitVRLittleEndian, uids.ImplicitVRLittleEndian, uids.RLELossless]
)
def test_a_file_that_is_cut_anywhere_is_corrupt(syntax: uids.UID | None) -> None:
    data = file_of(coded(ophthalmic(RGB), syntax) if syntax else photograph())
    kept = [*range(132, len(data), 997), *range(len(data) - 12, len(data))]
    assert {refused(data[:n_bytes]) for n_bytes in kept} == {"corrupt"}


def test_a_fragment_that_ends_early_is_corrupt() -> None:
    dataset = photograph()
    stream = jpeg(RGB)[:-200]
    dataset.PixelData = encapsulate([stream + bytes(len(stream) % 2)])
    assert refused(file_of(dataset)) == "corrupt"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"Rows": 65535, "Columns": 65535}, "too_many_pixels"),
        ({"Rows": 1, "Columns": 65535}, "too_many_pixels"),
        ({"NumberOfFrames": 10**9}, "corrupt"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "not_an_image"),
        ({"SamplesPerPixel": 4}, "not_an_image"),
        ({"PhotometricInterpretation": "CMYK"}, "not_an_image"),
        ({"Rows": 0}, "not_an_image"),
        ({"PixelData": b""}, "corrupt"),
        ({"PixelData": None}, "corrupt"),
    ],
)
def test_an_impossible_header_is_refused_before_pixels_are_decoded(
    said: dict[str, object], reason: str
) -> None:
    assert refused(file_of(ophthalmic(RGB, **said))) == reason


@pytest.mark.parametrize("syntax", [uids.JPEG2000Lossless, uids.JPEGLSLossless, uids.JPEGLosslessSV1])
def test_a_stream_that_is_larger_than_its_header_is_not_decoded(syntax: uids.UID) -> None:
    dataset = coded(ophthalmic(RGB), syntax)
    dataset.Rows, dataset.Columns = 64, 64
    assert refused(file_of(dataset)) == "corrupt"


def test_an_object_that_inflates_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part10, "MAX_INFLATED_BYTES", 2**22)
    dataset = ophthalmic(RGB)
    dataset.PixelData = bytes(2**23)
    data = file_of(coded(dataset, uids.DeflatedExplicitVRLittleEndian))
    assert len(data) < 2**15
    assert refused(data) == "too_large"


def test_a_frame_takes_no_more_memory_than_itself() -> None:
    """The other 49 frames are not touched."""
    frames = np.zeros((50, *RGB.shape), np.uint8)
    data = file_of(ophthalmic(frames))
    encoded_frame(data, 50, DEFAULT_LIMITS)
    tracemalloc.start()
    encoded_frame(data, 50, DEFAULT_LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * frames[0].nbytes < data.__sizeof__() / 8


def test_a_run_that_leaves_its_segment_is_corrupt() -> None:
    """The decoder, in Rust, panics: no `Exception` of Python's."""
    data = bytearray(file_of(coded(ophthalmic(RGB[:40, :40].astype(np.uint16) * 257), uids.RLELossless)))
    data[data.index(b"\xe0\x7f\x10\x00") + 6274] = 0xBA
    assert refused(bytes(data)) == "corrupt"


def test_what_is_too_large_as_bmp_goes_as_png() -> None:
    data = file_of(ophthalmic(RGB))
    assert encoded_frame(data, 1, DEFAULT_LIMITS).startswith(b"BM")
    small = encoded_frame(data, 1, ImageLimits(max_bytes=30_000))
    assert small.startswith(b"\x89PNG")
    assert away(decode(small), RGB) == 0
    assert refused(data, limits=ImageLimits(max_bytes=1000)) == "too_large"
    assert refused(file_of(photograph()), limits=ImageLimits(max_bytes=1000)) == "too_large"


def test_a_decoder_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders.base import JPEGLSLosslessDecoder

    monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {})
    data = file_of(coded(ophthalmic(RGB), uids.JPEGLSLossless))
    with pytest.raises(MissingExtraError, match=r"pyjpegls.*fundus-triton\[dicom\]"):
        encoded_frame(data, 1, DEFAULT_LIMITS)


def test_nothing_of_a_broken_value_is_said(tmp_path: Path) -> None:
    """In a process of its own: pytest takes warnings away from this one."""
    data = file_of(photograph(SpecificCharacterSet="Nomen"))
    for value in (b"2.25.", b"1.2.826.0", b"20261124", b"PRIMARY", b"YBR_FULL"):
        data = data.replace(value, (b"Nomen" * 2)[: len(value)])
    (tmp_path / "object.dcm").write_bytes(data)
    program = (
        "import pathlib, sys\n"
        "from fundus_core.images import DEFAULT_LIMITS\n"
        "from fundus_client.dicom.header import read_header\n"
        "from fundus_client.dicom.pixels import encoded_frame\n"
        "data = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "assert read_header(data, str)\n"
        "encoded_frame(data, 1, DEFAULT_LIMITS)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "object.dcm"], capture_output=True, text=True
    )
    assert "ImageError: The header announces no colours that are known." in done.stderr
    assert "Nomen" not in done.stdout + done.stderr


SEEDS = {
    "jpeg": file_of(photograph()),
    "frames": file_of(with_streams(ophthalmic(FRAMES), STREAMS, uids.JPEGBaseline8Bit, "YBR_FULL_422")),
    **{syntax.keyword: file_of(coded(ophthalmic(RGB[:40, :40].copy()), syntax)) for syntax in LOSSLESS},
    "palette": file_of(palette(16)),
}


def mutated(name: str, seed: int) -> bytes:
    rng = random.Random(seed)  # noqa: S311 (no secret)
    data = bytearray(SEEDS[name])
    header = data.index(b"\x28\x00\x02\x00") if b"\x28\x00\x02\x00" in data else 200
    for _ in range(rng.randint(1, 4)):
        first, last = rng.choice([(132, len(data)), (132, header), (header, min(len(data), header + 300))])
        at = rng.randrange(first, max(last, first + 1))
        change = rng.choice(["bits", "number", "cut", "repeat"])
        if change == "bits":
            data[at : at + 1] = rng.randbytes(1)
        elif change == "number":
            data[at : at + 4] = rng.choice(
                [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\1\0\0\0"]
            )
        elif change == "cut" and rng.random() < 0.3:
            del data[at:]
        elif change == "repeat":
            data[at:at] = data[at : at + rng.choice([2, 8, 100])]
    return bytes(data)


@pytest.mark.parametrize("name", SEEDS)
def test_a_damaged_object_gives_a_frame_or_a_reason_quickly(name: str) -> None:
    limits = ImageLimits(max_pixels=1_000_000)
    outcomes = set()
    for seed in range(60):
        data, started_s = mutated(name, seed), time.process_time()
        try:
            read_header(data, str)
            encoded_frame(data, 1, limits)
            outcomes.add("pixels")
        except ImageError as error:
            assert error.reason in IMAGE_REASONS
            outcomes.add(error.reason)
        assert time.process_time() - started_s < 2
    assert {"pixels", "corrupt"} <= outcomes
