"""How the pixels of a DICOM object lie in its file (PS3.3 C.7.6.3), checked before anything is decoded."""

from dataclasses import dataclass
from typing import Any

from fundus_client.dicom.part10 import Opened, number, open_until, text
from fundus_core.errors import ImageError
from fundus_core.images import ImageLimits

PIXELS = 0x7FE00010
_BEHIND_OFFSETS = 0x7FE00003
_COLOURS = ("Red", "Green", "Blue")
_WANTED = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in _COLOURS),
    *(f"{colour}PaletteColorLookupTableData" for colour in _COLOURS),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in _COLOURS),
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
_SAMPLES = {
    **dict.fromkeys(("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"), 1),
    **dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """The image pixel attributes; texts and numbers as in the file."""

    rows: int
    columns: int
    samples: int
    photometric: str
    planar: int
    bits_allocated: int
    bits_stored: int
    is_signed: int
    n_frames: int

    def __post_init__(self) -> None:
        if _SAMPLES.get(self.photometric) != self.samples:
            raise ImageError("not_an_image", "The header announces no colours that are known.")
        if self.bits_allocated not in (8, 16) or not 0 < self.bits_stored <= self.bits_allocated:
            raise ImageError("not_an_image", "The header announces another depth than 8 or 16 bits.")

    def options(self) -> dict[str, Any]:
        """Return it as the options of a decoder of pydicom."""
        return {
            "rows": self.rows,
            "columns": self.columns,
            "samples_per_pixel": self.samples,
            "photometric_interpretation": self.photometric,
            "planar_configuration": self.planar,
            "bits_allocated": self.bits_allocated,
            "bits_stored": self.bits_stored,
            "pixel_representation": self.is_signed,
            "number_of_frames": self.n_frames,
            "pixel_keyword": "PixelData",
        }


def open_pixels(data: bytes) -> Opened:
    """Read a file up to its pixels.

    Raises:
        ImageError: `corrupt` where it has none.
    """
    opened = open_until(_BEHIND_OFFSETS, data, _WANTED)
    if opened is None or opened.tag != PIXELS:
        raise ImageError("corrupt", "The DICOM object has no pixels, or ends before them.")
    return opened


def layout_of(opened: Opened, limits: ImageLimits) -> Layout:
    """Return the layout.

    Raises:
        ImageError: as `ImageLimits.check_pixels`; `not_an_image` for colours or depths that are not read.
    """
    dataset = opened.dataset
    limits.check_pixels(number(dataset, "Columns"), number(dataset, "Rows"))
    return Layout(
        rows=number(dataset, "Rows"),
        columns=number(dataset, "Columns"),
        samples=number(dataset, "SamplesPerPixel"),
        photometric=text(dataset, "PhotometricInterpretation"),
        planar=number(dataset, "PlanarConfiguration"),
        bits_allocated=number(dataset, "BitsAllocated"),
        bits_stored=number(dataset, "BitsStored"),
        is_signed=number(dataset, "PixelRepresentation"),
        n_frames=number(dataset, "NumberOfFrames") or 1,
    )
