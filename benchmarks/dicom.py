"""DICOM in: how fast headers are read, and what a frame costs beside the same pixels as a JPEG file.

    python benchmarks/dicom.py

Phantoms of 2000 x 2032 pixels. Measured side by side, the first three in one thread:
- headers read from the first 64 KiB of files, and the same bytes read without a look at them;
- reading a file, making the encoded frame and decoding it as the server does, for every transfer syntax,
  beside reading and decoding a JPEG file of the same pixels: the ratio is 1 where DICOM costs nothing;
- formats that a frame which had to be decoded could be sent in;
- `fundus-client score` on DICOM files beside JPEG files of the same pixels, from files to table: through a
  service without a model, where only the client's own work counts, and through the reference ensemble.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from client import command, in_turn, stub_service
from machine import command_line, median_ratio, write_results
from pydicom import uid as uids

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.dicom.objects import PERSON, coded, file_of, jpeg, ophthalmic, phantom, photograph, with_streams

from fundus_client.dicom.header import read_header
from fundus_client.dicom.pixels import encoded_frame
from fundus_client.embedded import embedded_server
from fundus_client.servers import reference_repository
from fundus_core.images import DEFAULT_LIMITS, decode
from fundus_core.metadata import without_metadata
from fundus_core.pseudonyms import Pseudonyms

SIZE_PX, HEAD_BYTES, REPEATS = 2000, 2**16, 5
N_DRAWN, N_STUB, N_SERVED = 8, 400, 64
KINDS = ("JPEG files", "encapsulated JPEG", "native")
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


def scored(folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Return the speed of the command on DICOM files, as a share of that on JPEG files."""
    with stub_service() as stub:
        found = {"no model": beside_files(folder / "stub", N_STUB, KINDS[:2], stub, repeats)}
    with embedded_server(reference_repository()) as server:
        address = server.grpc_address
        return found | {
            "reference ensemble": beside_files(folder / "served", N_SERVED, KINDS, address, repeats)
        }


def beside_files(
    folder: Path, count: int, kinds: Sequence[str], address: str, repeats: int
) -> dict[str, float]:
    """Return the speed of the command on each kind of DICOM file, as a share of that on JPEG files."""
    write_kinds(folder, count, kinds)
    rows = {kind: partial(images_per_s, folder / kind, address) for kind in kinds}
    speeds = in_turn(rows, repeats)
    return {kind: round(median_ratio(speeds[kind], speeds[KINDS[0]]), 3) for kind in kinds[1:]}


def images_per_s(folder: Path, address: str) -> float:
    """Return the speed of one run of the command."""
    return command(folder, address)["images_per_s"]


def write_kinds(folder: Path, count: int, kinds: Sequence[str]) -> None:
    """Write photographs, each of other pixels, as JPEG files, and as DICOM files around them and without."""
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        pixels = phantom(number % N_DRAWN, SIZE_PX).copy()
        pixels[0, :8], pixels[0, 8:16] = number % 256, number // 256
        stream, native = jpeg(pixels), ophthalmic(pixels)
        encapsulated = with_streams(native, [stream], uids.JPEGBaseline8Bit, "YBR_FULL_422")
        written = (stream, file_of(encapsulated), file_of(native))
        for kind, data in zip(kinds, written, strict=False):
            (folder / kind / f"{number}{'.jpg' if data is stream else '.dcm'}").write_bytes(data)


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
    parser.add_argument("--files", type=int, default=2000, help="how many headers are read")
    parser.add_argument("--repeats", type=int, default=3, help="of the command")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "headers").mkdir()
        results = {
            "headers": headers(folder / "headers", arguments.files),
            "speed beside a JPEG file": frames(folder),
            "formats": formats(),
            "`score` beside JPEG files": scored(folder, arguments.repeats),
        }
    for name, values in results.items():
        print(name, *(f"  {key:<24}{value}" for key, value in values.items()), sep="\n")
    write_results("dicom", results)


if __name__ == "__main__":
    main()
