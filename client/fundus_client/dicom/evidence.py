"""What all objects that we add to a study have in common: whose they are, who made them, what about."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid5

from pydicom import DataElement, Dataset, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from fundus_client.dicom.codes import plain
from fundus_client.dicom.part10 import number, texts, uid
from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import ImageError
from fundus_core.files import whole_file

Kind = Literal["sr", "sc", "pdf"]

MAKER = "fundus-triton"
_VERSION = version(MAKER)
_NAMESPACE = UUID("6d2b1d0f-6b1b-5c0c-9a50-4b9d6c2d7f10")  # of our UIDs; another one would make other UIDs

# PS3.3 C.7.1.1 and C.7.2.1: what an archive files by.
_OPTIONAL = ("SpecificCharacterSet", "IssuerOfPatientID", "StudyDescription")
_REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_DATE = re.compile(r"(?:\d{4}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))?")
_TIME = re.compile(r"(?:(?:[01]\d|2[0-3])(?:[0-5]\d(?:[0-5]\d(?:\.\d{1,6})?)?)?)?")
# Names and numbers stay as they are, even where they are too long; what breaks these is left out.
_CHECKED = {
    "PatientBirthDate": _DATE,
    "PatientSex": re.compile("[MFO]?"),
    "StudyDate": _DATE,
    "StudyTime": _TIME,
    "ImageLaterality": re.compile("[RLBU]"),
    "Laterality": re.compile("[RL]"),
    "BurnedInAnnotation": re.compile("YES|NO"),
    "LossyImageCompression": re.compile("01"),
}


@dataclass(frozen=True, slots=True)
class Series:
    """How the series of one kind of object is filed."""

    sop_class: UID
    modality: str
    number: int
    content: str


SERIES: dict[Kind, Series] = {
    "sr": Series(Comprehensive3DSRStorage, "SR", 9901, "Report"),
    "sc": Series(SecondaryCaptureImageStorage, "OT", 9902, "Picture"),
    "pdf": Series(EncapsulatedPDFStorage, "DOC", 9903, "Report (PDF)"),
}


@dataclass(frozen=True, slots=True)
class Reference:
    """The UIDs of the object that an answer is about.

    Raises:
        ImageError: one of them is missing, or no UID.
    """

    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_uid: str

    @classmethod
    def to(cls, source: Dataset) -> "Reference":
        """Return the reference to an object, by its header."""
        keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
        uids = {keyword: uid(source, keyword) for keyword in keywords}
        if missing := [keyword for keyword, found in uids.items() if not found]:
            raise ImageError(
                "corrupt", f"The DICOM object has no valid {missing[0]}: nothing can refer to it."
            )
        return cls(*uids.values())

    def item(self, frame: int | None = None) -> Dataset:
        """Return an item of a sequence of references, to one frame or to the object."""
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = self.sop_class_uid, self.sop_uid
        if frame is not None:
            item.ReferencedFrameNumber = frame
        return item


def object_uid(study_uid: str, sop_uid: str, digest: str, kind: Kind, part: str = "") -> str:
    """Return the UID of what a bundle says about an object: the same whenever it is asked, by whomever.

    An archive that gets the same answer twice so holds one object (PS3.5 B.2: a UUID behind "2.25."). Some
    hold objects of one UID in two studies, against the standard: each has answers of its own.

    Args:
        study_uid: of the study that it is in.
        sop_uid: of the object that it is about; "" for what is about the study.
        digest: of the bundle.
        kind: what it is.
        part: which one, where there are several.
    """
    return f"2.25.{uuid5(_NAMESPACE, '/'.join((study_uid, sop_uid, digest, kind, part))).int}"


def write_object(dataset: Dataset, path: Path) -> None:
    """Write a DICOM file (PS3.10), whole or not at all."""
    with whole_file(path) as unfinished:
        dcmwrite(unfinished, dataset, enforce_file_format=True)


def derived(source: Dataset, kind: Kind, spec: EnsembleSpec, when: datetime, part: str = "") -> Dataset:
    """Return the header of a new object about `source`, in its study and a series of its own.

    It holds the source's patient and study as an archive files them, byte for byte in the source's character
    set. Dates, times and codes that break the standard are left empty.

    Args:
        source: header of the photograph.
        kind: of the new object.
        spec: of the bundle that answered.
        when: local time of the answer; the same time gives the same bytes.
        part: which one, where there are several of a kind.

    Raises:
        ImageError: `source` has no valid UIDs.
    """
    about, series, header = Reference.to(source), SERIES[kind], Dataset()
    header.set_original_encoding(False, True, source.original_character_set)  # so that bytes stay as they are
    header.update(_filed_by(source))
    header.SOPClassUID = series.sop_class
    header.SOPInstanceUID = object_uid(about.study_uid, about.sop_uid, spec.digest, kind, part)
    header.SeriesInstanceUID = object_uid(about.study_uid, "", spec.digest, kind)
    header.Modality, header.SeriesNumber = series.modality, series.number
    header.SeriesDescription = plain(f"{series.content}: {spec.name} {spec.version}")
    header.InstanceNumber = _number(source)
    header.InstanceCreationDate = header.ContentDate = f"{when:%Y%m%d}"
    header.InstanceCreationTime = header.ContentTime = f"{when:%H%M%S}"
    header.update(_equipment(spec))
    header.file_meta = _file_meta(header)
    return header


def copied(source: Dataset, keywords: Iterable[str]) -> Dataset:
    """Return those of these attributes that `source` has with a value that the standard allows."""
    kept = Dataset()
    for keyword in keywords:
        if keyword in source and _is_allowed(source, keyword):
            kept[keyword] = _undecoded(source, keyword)
    return kept


def _is_allowed(source: Dataset, keyword: str) -> bool:
    """Whether a value is what it should be: no sequence, and all of it readable where it is checked."""
    if keyword not in _CHECKED:
        return bool(source.get_item(tag_for_keyword(keyword) or 0).VR != "SQ")
    values = texts(source, keyword)
    return bool(values and all(map(_CHECKED[keyword].fullmatch, values)))


def _filed_by(source: Dataset) -> Dataset:
    """Return the patient and the study; empty is what must be there and is not."""
    kept = Dataset()
    for keyword in _REQUIRED:
        kept[keyword] = DataElement(keyword, dictionary_VR(keyword), "")
    kept.update(copied(source, (*_REQUIRED, *_OPTIONAL)))
    return kept


def _undecoded(source: Dataset, keyword: str) -> DataElement | RawDataElement:
    """Return an element with the bytes that the file has, whatever they mean."""
    element = source.get_item(tag_for_keyword(keyword) or 0)
    if isinstance(element, RawDataElement):
        return element._replace(VR=dictionary_VR(keyword), is_implicit_VR=False, is_little_endian=True)
    return element


def _number(source: Dataset) -> int:
    """Return the InstanceNumber, 1 where it is none."""
    found = number(source, "InstanceNumber")
    return found if 0 < found < 2**31 else 1


def _equipment(spec: EnsembleSpec) -> Dataset:
    """Return what made the object: this program with this bundle (PS3.3 C.7.5.2)."""
    equipment = Dataset()
    equipment.Manufacturer, equipment.ManufacturerModelName = MAKER, plain(f"{spec.name} {spec.version}")
    equipment.DeviceSerialNumber, equipment.SoftwareVersions = spec.digest, _VERSION
    return equipment


def _file_meta(header: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta
