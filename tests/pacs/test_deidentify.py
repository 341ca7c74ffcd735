"""De-identified copies: nothing of a person in any byte, and what a researcher needs survives."""

import subprocess
import warnings
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom import DataElement, Dataset, Sequence, dcmread
from pydicom.datadict import DicomDictionary, keyword_dict
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from tests.dicom import objects
from tests.pacs.conftest import photograph, program
from tests.planted import BYTES, has_name, jpeg_with, segment

from fundus_client.pacs.deidentify import KEPT, NotDeidentifiableError, deidentified, deidentified_file
from fundus_core.pseudonyms import Pseudonyms

NAMES = Pseudonyms(bytes(range(32)))
OTHER_KEY = Pseudonyms(bytes(32))
CHARACTERS = {"ISO_IR 100": "Mürker", "ISO_IR 192": "Mürker東郎", "\\ISO 2022 IR 87": "山田太郎"}
CODECS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "iso2022_jp", "shift_jis")
PLAIN = {
    "AE": "MARKERAE",
    "AS": "089Y",
    "CS": "MARKERCS",
    "DA": "19371129",
    "DS": "739.1846",
    "IS": "7391846",
}
PLAIN |= {"DT": "19371129113745", "TM": "113745", "UI": "1.2.7391846", "UR": "http://MARKERUR/"}
TEXTS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
# By decision: the camera, and what describes the pixels.
STAYING_TEXTS = frozenset(("Manufacturer", "ManufacturerModelName", "SoftwareVersions"))
STAYING_VRS = frozenset(("CS", "DS", "IS"))


def file_of(ds: Dataset) -> bytes:
    with BytesIO() as buffer:
        ds.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()


def value(vr: str, name: str) -> object:
    if vr in TEXTS:
        return name
    return PLAIN.get(vr, name.encode() if vr in ("OB", "UN") else None)


def planted(characters: str) -> Dataset:
    """Put a name, or what else its VR takes, into every attribute of the dictionary that takes text."""
    ds, name = photograph(), CHARACTERS[characters]
    ds.SpecificCharacterSet = characters.split("\\")
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        stays = keyword in KEPT and (vr in STAYING_VRS or keyword in STAYING_TEXTS)
        if (
            tag >> 16 in (0x0000, 0x0002, 0xFFFE)
            or keyword in ("SOPClassUID", "SpecificCharacterSet")
            or stays
        ):
            continue
        if vr == "SQ":
            ds.add(DataElement(tag, vr, [coded(name), uncoded(name)]))
        elif (plain := value(vr, name)) is not None:
            ds.add(DataElement(tag, vr, plain))
    for level in (ds, ds.AnatomicRegionSequence[0]):
        level.private_block(0x0011, name, create=True).add_new(1, "LO", name)
    ds.BurnedInAnnotation, ds.PatientSex = "NO", "F"
    ds.preamble = name.encode()[:4] * 32
    ds.file_meta.SourceApplicationEntityTitle = PLAIN["AE"]
    ds.file_meta.PrivateInformationCreatorUID, ds.file_meta.PrivateInformation = PLAIN["UI"], name.encode()
    return ds


def coded(name: str) -> Dataset:
    item = Dataset()
    item.CodeMeaning = item.CodeValue = item.CodingSchemeDesignator = name
    return item


def uncoded(name: str) -> Dataset:
    item = Dataset()
    item.PatientName = item.PatientID = item.AccessionNumber = name
    item.StudyDate, item.SOPInstanceUID, item.OtherPatientIDs = PLAIN["DA"], PLAIN["UI"], PLAIN["IS"]
    return item


@pytest.mark.parametrize("characters", CHARACTERS)
def test_no_byte_of_a_copy_holds_what_was_planted_in_every_attribute(characters: str) -> None:
    name = CHARACTERS[characters]
    markers = {part.encode(codec, "ignore") for part in (name, name[-2:]) for codec in CODECS}
    markers = {each for each in markers if len(each) > 2} | {each.encode() for each in PLAIN.values()}
    with warnings.catch_warnings(action="ignore"):  # values that no VR allows
        original = file_of(planted(characters))
    copy = deidentified_file(original, NAMES)
    assert all(each.encode() in original for each in PLAIN.values())
    assert not [each for each in markers if each in copy]


def test_what_a_researcher_needs_survives() -> None:
    ds = photograph()
    ds.ImageLaterality, ds.Manufacturer, ds.HorizontalFieldOfView = "L", "眼カメラ", 45.0
    ds.SpecificCharacterSet = "ISO_IR 192"
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "5665001", "SCT", "Retina"
    ds.AnatomicRegionSequence = Sequence([region])
    copy = dcmread(BytesIO(deidentified_file(file_of(ds), NAMES)))
    assert (copy.ImageLaterality, copy.Manufacturer, copy.HorizontalFieldOfView) == ("L", "眼カメラ", 45.0)
    assert copy.AnatomicRegionSequence[0].CodeMeaning == "Retina"
    assert copy.PixelData == ds.PixelData
    assert copy.PatientID == NAMES.of_patient("0")
    assert copy.PatientIdentityRemoved == "YES"
    assert [each.CodeValue for each in copy.DeidentificationMethodCodeSequence] == ["113100", "113107"]
    assert copy.file_meta.MediaStorageSOPInstanceUID == copy.SOPInstanceUID


def test_name_birth_date_and_sex_go_even_where_dates_only_move() -> None:
    ds = photograph()
    ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "YAMADA^TARO", "19371129", "M"
    copy = deidentified(ds, NAMES)
    assert (copy.PatientName, copy.PatientBirthDate, copy.PatientSex) == ("", "", "")


def test_text_in_a_place_for_codes_goes() -> None:
    ds = photograph()
    ds.ImageLaterality, ds.ImageType = "L", ["ORIGINAL", "Yamada"]
    ds.add(DataElement(0x00280301, "LO", "YAMADA"))
    copy = dcmread(BytesIO(deidentified_file(file_of(ds), NAMES)))
    assert copy.ImageLaterality == "L"
    assert "ImageType" not in copy
    assert "BurnedInAnnotation" not in copy


def test_the_object_that_is_copied_stays_as_it_is() -> None:
    ds = photograph()
    before = file_of(ds)
    deidentified(ds, NAMES)
    assert file_of(ds) == before


def test_uids_stay_joined_under_one_key_and_tell_nothing_under_another() -> None:
    first = photograph()
    second = photograph(first.StudyInstanceUID, first.SeriesInstanceUID)
    one, two, other = deidentified(first, NAMES), deidentified(second, NAMES), deidentified(first, OTHER_KEY)
    assert one.StudyInstanceUID == two.StudyInstanceUID != first.StudyInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert one.StudyInstanceUID != other.StudyInstanceUID
    assert one.StudyInstanceUID.is_valid
    assert one.SOPClassUID == first.SOPClassUID


def test_the_days_between_two_visits_survive_and_the_days_themselves_do_not() -> None:
    visits = [photograph(day=day) for day in ("20250228", "20261124")]
    visits[0].AcquisitionDateTime = "20250228081502.25+0900"
    copies = [deidentified(each, NAMES) for each in visits]
    days = [pydicom.valuerep.DA(each.StudyDate) for each in copies]
    assert (days[1] - days[0]).days == 634
    assert copies[0].StudyDate < "20250228"
    assert copies[0].AcquisitionDateTime == copies[0].StudyDate


def test_a_date_that_is_none_becomes_empty() -> None:
    ds = photograph()
    ds.AcquisitionDateTime = "2025"
    assert deidentified(ds, NAMES).AcquisitionDateTime == ""


def jpeg_photograph(*, frames: int, extended: bool = False) -> Dataset:
    ds = photograph()
    stream = jpeg_with(segment(0xFE, BYTES), segment(0xE1, b"Exif\0\0" + BYTES))
    pack = encapsulate_extended if extended else encapsulate
    packed = pack([stream] * frames)
    ds.file_meta.TransferSyntaxUID, ds.PhotometricInterpretation = JPEGBaseline8Bit, "YBR_FULL_422"
    ds.Rows, ds.Columns, ds.NumberOfFrames = 60, 88, frames
    if extended:
        packed, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = packed
    ds.PixelData = packed
    return ds


@pytest.mark.parametrize("extended", [False, True])
def test_jpeg_streams_stay_as_they_are_without_their_metadata(extended: bool) -> None:
    original = file_of(jpeg_photograph(frames=3, extended=extended))
    copy = dcmread(BytesIO(deidentified_file(original, NAMES)))
    streams = list(generate_frames(copy.PixelData, number_of_frames=3))
    assert has_name(original) and not has_name(copy.PixelData)
    assert len(streams) == 3
    plain = cv2.imdecode(np.frombuffer(jpeg_with(), np.uint8), cv2.IMREAD_COLOR)
    assert all(
        (cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_COLOR) == plain).all() for each in streams
    )


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEG2000Lossless, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_pixels_are_the_same_in_other_syntaxes(syntax: pydicom.uid.UID) -> None:
    ds = photograph(size_px=64)
    expected = ds.pixel_array
    if syntax.is_encapsulated:
        ds.compress(syntax, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = syntax
    copy = dcmread(BytesIO(deidentified_file(file_of(ds), NAMES)))
    assert (copy.pixel_array == expected).all()
    assert not copy.file_meta.TransferSyntaxUID.is_compressed


def test_bytes_behind_the_pixels_go() -> None:
    ds = photograph()
    ds.PixelData += BYTES.ljust(100, b" ")
    assert len(deidentified(ds, NAMES).PixelData) == 16 * 16 * 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned"),
        ({"SOPClassUID": SecondaryCaptureImageStorage, "BurnedInAnnotation": ""}, "burned"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}, "no photograph"),
        ({"PixelData": b"\0\0"}, "cut off"),
        ({"Rows": 65535, "Columns": 65535}, "memory"),
        ({"Rows": None}, "damaged"),
    ],
)
def test_what_cannot_be_cleaned_is_refused_with_a_reason(changes: dict[str, object], reason: str) -> None:
    ds = photograph()
    for keyword, content in changes.items():
        setattr(ds, keyword, content)
    with pytest.raises(NotDeidentifiableError, match=reason):
        deidentified_file(file_of(ds), NAMES)


def test_an_overlay_within_the_pixels_is_refused() -> None:
    ds = photograph()
    ds.add_new(0x60000102, "US", 12)
    with pytest.raises(NotDeidentifiableError, match="overlay"):
        deidentified(ds, NAMES)


def test_a_secondary_capture_that_says_that_nothing_is_burned_in_is_taken() -> None:
    ds = photograph()
    ds.SOPClassUID, ds.BurnedInAnnotation = SecondaryCaptureImageStorage, "NO"
    assert deidentified(ds, NAMES).PixelData == ds.PixelData


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless])
def test_a_copy_of_a_valid_object_is_valid(syntax: str, tmp_path: Path) -> None:
    original = objects.file_of(objects.coded(objects.ophthalmic(objects.phantom()), syntax))
    path = tmp_path / "copy.dcm"
    path.write_bytes(deidentified_file(original, NAMES))
    said = subprocess.run([program("dciodvfy"), path], capture_output=True, text=True).stderr
    assert "OphthalmicPhotography8BitImage" in said
    assert "Error" not in said
    assert (dcmread(path).pixel_array == dcmread(BytesIO(original)).pixel_array).all()


def test_every_kept_attribute_is_one_of_the_standard() -> None:
    assert keyword_dict.keys() >= KEPT
