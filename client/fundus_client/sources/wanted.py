"""Which files of a folder are inputs: images by their suffix, DICOM objects by their content."""

from pathlib import Path

from fundus_core.files import IMAGE_SUFFIXES, ImageRef

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic"})
SUFFIXES = IMAGE_SUFFIXES | DICOM_SUFFIXES
MAGIC_END = 132  # PS3.10 7.1: a preamble of 128 bytes, then "DICM"
_INDEX = "DICOMDIR"  # of a medium; no input


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so is a DICOM object."""
    return head[MAGIC_END - 4 : MAGIC_END] == b"DICM"


def by_name(image_id: str, is_folder: bool) -> bool:
    """Whether a search enters a folder (always), or takes a file, by the suffix of its name."""
    return is_folder or Path(image_id).suffix.lower() in SUFFIXES


def by_content(folder: Path, below: str) -> bool:
    """Whether a search takes the file `below` a folder: by its suffix, or because it is a DICOM object.

    What is hidden may be half of an object.
    """
    if by_name(below, False):
        return True
    path = folder / below
    hidden = any(part.startswith(".") for part in below.split("/"))
    return not hidden and path.name != _INDEX and is_dicom(ImageRef(below, path).head(MAGIC_END))
