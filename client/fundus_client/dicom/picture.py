"""A picture about a photograph, such as what its probability depends on, in the photograph's study."""

from datetime import datetime

from pydicom import Dataset

from fundus_client.dicom.codes import SOURCE_IMAGE, plain
from fundus_client.dicom.evidence import Reference, copied, derived
from fundus_core.ensemble import EnsembleSpec
from fundus_core.quality import Pixels

# Whose eye, who is named in the pixels, and what was lost of them, hold for what is drawn from them as well.
_INHERITED = ("ImageLaterality", "Laterality", "BurnedInAnnotation", "LossyImageCompression")


def secondary_capture(
    source: Dataset,
    picture: Pixels,
    spec: EnsembleSpec,
    when: datetime,
    description: str,
    frame: int | None = None,
) -> Dataset:
    """Return a Secondary Capture (PS3.3 A.8.1) of a picture, a dataset ready for `write_object`.

    Args:
        source: header of the photograph.
        picture: (H, W, 3) uint8 RGB; native in the object, as every archive takes it.
        spec: of the bundle that answered.
        when: local time of the answer; the same time gives the same bytes.
        description: of what the picture shows.
        frame: of the photograph that it is about, from 1; None where it has one.

    Raises:
        ImageError: `source` has no valid UIDs.
    """
    capture = derived(source, "sc", spec, when, part=str(frame or ""))
    capture.update(copied(source, _INHERITED))
    if "ImageLaterality" not in capture and "Laterality" not in capture:
        capture.Laterality = ""  # of a paired organ it is said, even where it is not known
    capture.ConversionType, capture.ImageType = "WSD", ["DERIVED", "SECONDARY"]
    capture.PatientOrientation = ""
    capture.DerivationDescription = plain(description, 1024)
    capture.SourceImageSequence = [_source_image(Reference.to(source), frame)]
    capture.update(_image_pixel(picture))
    return capture


def _source_image(about: Reference, frame: int | None) -> Dataset:
    item = about.item(frame)
    item.PurposeOfReferenceCodeSequence = [SOURCE_IMAGE]
    return item


def _image_pixel(picture: Pixels) -> Dataset:
    """Return the image pixel module (PS3.3 C.7.6.3) of a picture (H, W, 3)."""
    image = Dataset()
    image.Rows, image.Columns, image.SamplesPerPixel = picture.shape
    image.PhotometricInterpretation, image.PlanarConfiguration = "RGB", 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.PixelData = picture.tobytes()
    image["PixelData"].VR = "OB"
    return image
