"""De-identified copies of photographs for research, by PS3.15 Annex E.

The Basic Application Level Confidentiality Profile, with the option Retain Longitudinal Temporal Information
with Modified Dates. Two nets lie behind each other: only the attributes of `KEPT` stay at all, none that is
private, graphics, an icon or a reference; then dicom-anonymizer's table E.1-1 acts on them.

- UIDs, patient ids and dates are replaced under a key: the same key joins what belongs together, in all runs.
- All dates of a patient move back by one number of days, 1 to `_MOST_DAYS`; times of the day become midnight.
- The camera stays by manufacturer, model and software, not by its serial number; age and sex go.
- JPEG streams stay as they are, less what `fundus_core.metadata` takes out; other compression is undone.

The pixels stay: vessels are as personal as a fingerprint, so the copies are still to be protected.
"""

import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO

from dicomanonymizer.simpledicomanonymizer import (  # type: ignore[import-untyped]
    anonymize_dataset,
    initialize_actions,
)
from pydicom import DataElement, Dataset, Sequence, dcmread, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import JPEGTransferSyntaxes

from fundus_client.dicom.kinds import PHOTOGRAPHS
from fundus_core.errors import FundusError
from fundus_core.metadata import NO_IMAGE, without_metadata
from fundus_core.pseudonyms import Pseudonyms

_KEPT = """
SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID
SynchronizationFrameOfReferenceUID SynchronizationTrigger AcquisitionTimeSynchronized
Modality ImageType PresentationIntentType ConversionType
Manufacturer ManufacturerModelName SoftwareVersions DeviceSerialNumber
PatientName PatientID PatientSex StudyID AccessionNumber ReferringPhysicianName
StudyDate StudyTime SeriesDate ContentDate ContentTime AcquisitionDate AcquisitionDateTime
SeriesNumber InstanceNumber AcquisitionNumber Laterality ImageLaterality PatientOrientation
AnatomicRegionSequence AnatomicRegionModifierSequence PrimaryAnatomicStructureSequence
RelativeImagePositionCodeSequence AcquisitionContextSequence
AcquisitionDeviceTypeCodeSequence IlluminationTypeCodeSequence LensesCodeSequence DetectorType
LightPathFilterTypeStackCodeSequence LightPathFilterPassThroughWavelength LightPathFilterPassBand
ImagePathFilterTypeStackCodeSequence ImagePathFilterPassThroughWavelength ImagePathFilterPassBand
ChannelDescriptionCodeSequence HorizontalFieldOfView EmmetropicMagnification IntraOcularPressure
PupilDilated DegreeOfDilation PatientEyeMovementCommanded PatientEyeMovementCommandCodeSequence
RefractiveStateSequence SphericalLensPower CylinderLensPower CylinderAxis MydriaticAgentSequence
MydriaticAgentCodeSequence
SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames FrameIncrementPointer
FrameTime FrameTimeVector Rows Columns PixelSpacing NominalScannedPixelSpacing PixelAspectRatio
BitsAllocated BitsStored HighBit PixelRepresentation SmallestImagePixelValue LargestImagePixelValue
RescaleIntercept RescaleSlope WindowCenter WindowWidth VOILUTFunction PresentationLUTShape
RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor
BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData
GreenPaletteColorLookupTableData BluePaletteColorLookupTableData ColorSpace
LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod BurnedInAnnotation
RecognizableVisualFeatures PixelData
"""
KEPT = frozenset(_KEPT.split())
_KEPT_TAGS = frozenset(tag for tag in map(tag_for_keyword, KEPT) if tag is not None)
_CODE_TAGS = frozenset((0x00080100, 0x00080102, 0x00080103, 0x00080104))  # value, scheme, version, meaning
_PUBLIC_SCHEMES = ("DCM", "SCT", "SRT", "UCUM")  # others have texts of a hospital's own
_METHODS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
)
_TABLE = initialize_actions("dicomfields_2026c")
_CODE = re.compile(r"[A-Z0-9_ ]{0,16}")  # VR CS
_OVERLAYS = range(0x6000, 0x6100, 2)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."  # single-frame; below it, the multi-frame kinds
_DAYS = b"fundus-triton days\0"
_MOST_DAYS = 3650
_MAX_DECODED_BYTES = 2**31


class NotDeidentifiableError(FundusError):
    """An object of which no copy can be made that says nothing of a person."""


def deidentified_file(encoded: bytes, names: Pseudonyms) -> bytes:
    """Return `deidentified` of a whole file of DICOM (PS3.10), as one.

    Raises:
        NotDeidentifiableError: as `deidentified`, or the file is damaged.
    """
    try:
        with BytesIO() as buffer:
            dcmwrite(buffer, deidentified(dcmread(BytesIO(encoded)), names), enforce_file_format=True)
            return buffer.getvalue()
    except FundusError:
        raise
    except Exception:  # damage makes pydicom raise many kinds
        raise NotDeidentifiableError("The object is damaged, so that it cannot be de-identified.") from None


def deidentified(dataset: Dataset, names: Pseudonyms) -> Dataset:
    """Return a copy that says nothing of a person, under the key of `names`.

    Args:
        dataset: a photograph with its file meta information; it is not changed.
        names: give the patient's pseudonym; their key makes UIDs, and how far dates move.

    Raises:
        NotDeidentifiableError: no photograph, or text may be burned into its pixels.
    """
    _check(dataset)
    copy = _kept(dataset, _KEPT_TAGS)
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    _clean_pixels(copy)
    patient = str(dataset.get("PatientID", "")).strip()
    replaced = _Replaced(names, patient or str(dataset.StudyInstanceUID))
    for level in _levels(copy):
        rules = {
            (each.tag.group, each.tag.element): replaced.one
            for each in level
            if each.VR in ("UI", "DA", "DT")
        }
        anonymize_dataset(level, rules, base_rules_gen=_TABLE.copy)
    copy.PatientID, copy.PatientBirthDate = names.of_patient(patient), ""
    _declare(copy)
    return copy


def _check(dataset: Dataset) -> None:
    sop_class, burned_in = str(dataset.get("SOPClassUID", "")), dataset.get("BurnedInAnnotation", "")
    if sop_class not in PHOTOGRAPHS:
        raise NotDeidentifiableError("The object is no photograph. Leave its series out.")
    if burned_in == "YES" or (burned_in != "NO" and f"{sop_class}.".startswith(_SECONDARY_CAPTURE)):
        hint = "BurnedInAnnotation must be NO."
        raise NotDeidentifiableError(f"Text of a person may be burned into the pixels. {hint}")
    if any((group, 0x0102) in dataset and dataset[group, 0x0102].value for group in _OVERLAYS):
        raise NotDeidentifiableError("An overlay lies within the bits of the pixels.")  # OverlayBitPosition


def _kept(dataset: Dataset, tags: frozenset[int]) -> Dataset:
    """Return the attributes of `tags` that can be read, in items of sequences those of `KEPT` and codes."""
    copy = Dataset()
    for tag in tags & dataset.keys():
        try:
            element = dataset[tag]
        except Exception:  # noqa: S112  a value that breaks its VR makes pydicom raise many kinds
            continue
        if element.VR == "SQ":
            items = [_kept(item, _KEPT_TAGS | _CODE_TAGS) for item in element.value if _is_public(item)]
            copy.add(DataElement(tag, "SQ", Sequence(item for item in items if item)))
        elif element.VR in dictionary_VR(tag) and _is_clean(element):
            copy.add(DataElement(tag, element.VR, element.value))
    return copy


def _is_public(item: Dataset) -> bool:
    return _CODE_TAGS.isdisjoint(item.keys()) or item.get("CodingSchemeDesignator") in _PUBLIC_SCHEMES


def _is_clean(element: DataElement) -> bool:
    """Whether a code is one by its form, and a text took in no element behind it by a wrong length."""
    values = [str(each) for each in (element.value if element.VM > 1 else [element.value or ""])]
    if element.VR == "CS":
        return all(map(_CODE.fullmatch, values))
    return element.VR != "LO" or all("".join(each.split()).isprintable() for each in values)


def _levels(dataset: Dataset) -> Iterator[Dataset]:
    """Yield the object, and the items of its sequences at every depth."""
    yield dataset
    for element in dataset:
        for item in element.value if element.VR == "SQ" else ():
            yield from _levels(item)


@dataclass(frozen=True)
class _Replaced:
    """What takes the place of UIDs and dates, under a key."""

    names: Pseudonyms
    patient: str

    def one(self, dataset: Dataset, tag: tuple[int, int]) -> None:
        """Replace the value of one element; as an action of dicom-anonymizer."""
        element = dataset[tag]
        if element.VR != "UI":
            element.value = self._moved(str(element.value))
        elif tag in _TABLE:  # else it names a class
            element.value = self.names.of_uid(str(element.value))

    def _moved(self, text: str) -> str:
        """Return the day of a date or date and time, moved; "" where there is none."""
        digest = hmac.digest(self.names.key, _DAYS + self.patient.encode(), "sha256")
        back = timedelta(days=1 + int.from_bytes(digest[:8], "big") % _MOST_DAYS)
        try:
            return f"{datetime.strptime(text[:8], '%Y%m%d') - back:%Y%m%d}"
        except (ValueError, OverflowError):
            return ""


def _clean_pixels(copy: Dataset) -> None:
    """Leave pixels and nothing beside them."""
    if get_expected_length(copy) > _MAX_DECODED_BYTES:
        raise NotDeidentifiableError("The pixels would take too much memory.")
    syntax = copy.file_meta.TransferSyntaxUID
    if syntax in JPEGTransferSyntaxes:
        frames = generate_frames(copy.PixelData, number_of_frames=int(copy.get("NumberOfFrames", 1)))
        cleaned = list(map(without_metadata, frames))
        if NO_IMAGE in cleaned:
            raise NotDeidentifiableError("A frame holds no JPEG stream.")
        copy.PixelData = encapsulate(cleaned)
        return
    if syntax.is_encapsulated:
        copy.decompress(generate_instance_uid=False)
    n_bytes = get_expected_length(copy)
    if len(copy.PixelData) < n_bytes:
        raise NotDeidentifiableError("The pixels are cut off.")
    copy.PixelData = copy.PixelData[:n_bytes].ljust(n_bytes + n_bytes % 2, b"\0")


def _declare(copy: Dataset) -> None:
    """Say what was done (PS3.15 E.1.1), and in which characters."""
    copy.PatientIdentityRemoved, copy.LongitudinalTemporalInformationModified = "YES", "MODIFIED"
    copy.DeidentificationMethod = "PS3.15 Annex E, attributes that are not needed removed"
    copy.DeidentificationMethodCodeSequence = Sequence(_coded(*method) for method in _METHODS)
    copy.SpecificCharacterSet = "ISO_IR 192"
    copy.file_meta.MediaStorageSOPClassUID = copy.SOPClassUID
    copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID


def _coded(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
