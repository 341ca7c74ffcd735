"""DICOM in: how fast headers are read, and what a frame costs beside the same pixels as a JPEG file.

    python benchmarks/dicom.py

One thread, phantoms of 2000 x 2032 pixels. Measured side by side:
- headers read from the first 64 KiB of files, and the same bytes read without a look at them;
- reading a file, making the encoded frame and decoding it as the server does, for every transfer syntax,
  beside reading and decoding a JPEG file of the same pixels: the ratio is 1 where DICOM costs nothing;
- formats that a frame which had to be decoded could be sent in.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from machine import command_line, median_ratio, write_results
from pydicom import uid as uids

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.dicom.objects import PERSON, coded, file_of, jpeg, ophthalmic, phantom, photograph

from fundus_client.dicom.header import read_header
from fundus_client.dicom.pixels import encoded_frame
from fundus_core.images import DEFAULT_LIMITS, decode
from fundus_core.metadata import without_metadata
from fundus_core.pseudonyms import Pseudonyms

SIZE_PX, HEAD_BYTES, REPEATS = 2000, 2**16, 5
SYNTAXES = (
    uids.ExplicitVRLittleEndian,
    uids.RLELossless,
    uids.JPEGLosslessSV1,
    uids.JPEGLSLossless,
    uids.JPEG2000Lossless,
)
FORMATS = {  # TIFF compression: 1 none, 5 LZW
    "BMP": (".bmp", []),
    "TIFF, LZW": (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 5]),
    "PNG": (".png", []),
    "PNG, level 1": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
}


def cpu_s(task: Callable[[], object]) -> float:
    """Return the CPU time of a task."""
    started_s = time.process_time()
    task()
    return time.process_time() - started_s


def headers(folder: Path, count: int) -> dict[str, object]:
    """Return how many headers of small objects are read per second."""
    data = file_of(photograph(**PERSON))
    for number in range(count):
        (folder / f"{number}.dcm").write_bytes(data)
    of_patient = Pseudonyms(bytes(32)).of_patient

    def read() -> None:
        for path in folder.iterdir():
            with path.open("rb") as file:
                read_header(file.read(HEAD_BYTES), of_patient)

    return {"files": count, "files_per_s": round(count / min(cpu_s(read) for _ in range(REPEATS)))}


def arrives(data: bytes) -> None:
    """Do what client and server do with an image file."""
    decode(without_metadata(data))


def frames(folder: Path) -> dict[str, float]:
    """Return how fast a frame arrives, as a share of the speed of a JPEG file."""
    pixels = phantom(0, SIZE_PX)
    plain = folder / "plain.jpg"
    plain.write_bytes(jpeg(pixels))
    objects = {"JPEGBaseline8Bit": photograph(0, SIZE_PX)}
    objects |= {syntax.keyword: coded(ophthalmic(pixels), syntax) for syntax in SYNTAXES}
    return {name: round(ratio(plain, file_of(dataset)), 3) for name, dataset in objects.items()}


def ratio(plain: Path, data: bytes) -> float:
    """Return the time of a JPEG file over that of a DICOM file."""
    path = plain.with_suffix(".dcm")
    path.write_bytes(data)
    jpeg_s, dicom_s = [], []
    for _ in range(REPEATS):
        jpeg_s.append(cpu_s(lambda: arrives(plain.read_bytes())))
        dicom_s.append(cpu_s(lambda: arrives(encoded_frame(path.read_bytes(), 1, DEFAULT_LIMITS))))
    return median_ratio(jpeg_s, dicom_s)


def formats() -> dict[str, dict[str, float]]:
    """Return the size of each format as a share of the pixels, and its time as a multiple of BMP's."""
    noise = np.random.default_rng(0).normal(0, 1.5, (SIZE_PX, SIZE_PX + 32, 3))
    drawn = phantom(0, SIZE_PX)
    pixels = np.clip(drawn + noise * (drawn > 3), 0, 255).astype(np.uint8)  # a sensor's, but not on black
    found = {name: both_ways(pixels, *how) for name, how in FORMATS.items()}
    return {
        name: {"size": round(size, 2), "time": round(median_ratio(times_s, found["BMP"][1]), 1)}
        for name, (size, times_s) in found.items()
    }


def both_ways(pixels: np.ndarray, suffix: str, options: Sequence[int]) -> tuple[float, list[float]]:
    """Return the share of the bytes that is left, and the times of writing and reading."""
    encoded = cv2.imencode(suffix, pixels, options)[1]
    times_s = [
        cpu_s(lambda: cv2.imdecode(cv2.imencode(suffix, pixels, options)[1], cv2.IMREAD_COLOR))
        for _ in range(REPEATS)
    ]
    return encoded.nbytes / pixels.nbytes, times_s


def main() -> None:
    """Measure, print, write."""
    parser = command_line(__doc__)
    parser.add_argument("--files", type=int, default=5000, help="how many headers are read")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "headers").mkdir()
        results = {
            "headers": headers(folder / "headers", arguments.files),
            "speed beside a JPEG file": frames(folder),
            "formats": formats(),
        }
    for name, values in results.items():
        print(name, *(f"  {key:<24}{value}" for key, value in values.items()), sep="\n")
    write_results("dicom", results)


if __name__ == "__main__":
    main()
