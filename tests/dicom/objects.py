"""DICOM objects for tests: phantoms as an ophthalmic camera stores them, in every transfer syntax."""

import io
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime
from functools import cache
from pathlib import Path

import cv2
import gdcm
import numpy as np
from numpy.typing import NDArray
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filereader import dcmread
from pydicom.filewriter import dcmwrite

from fundus_core import phantoms

ACQUIRED = datetime(2026, 11, 24, 8, 30)
JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"  # PS3.5 H.3, example 1
PERSON = {  # what must never leave an object but into a report on it
    "PatientName": "Planted^Nomen^Medium",
    "PatientID": "PLANTED-4711",
    "PatientBirthDate": "19431231",
    "PatientAddress": "Plantedstreet 12",
    "AccessionNumber": "PLANTEDACC",
    "ReferringPhysicianName": "Planted^Referrer",
    "OperatorsName": "Planted^Operator",
    "OtherPatientIDs": "PLANTED-OTHER",
    "InstitutionName": "Planted Hospital",
    "StudyDescription": "Planted study of Nomen",
    "PatientComments": "Planted comment",
}

Samples = NDArray[np.uint8] | NDArray[np.uint16]


@cache
def phantom(seed: int = 0, size_px: int = 96) -> NDArray[np.uint8]:
    """Return a phantom (size_px, size_px + 32, 3), RGB, not square so that rows and columns differ."""
    drawn = phantoms.render(seed).pixels
    pixels = np.asarray(cv2.resize(drawn, (size_px + 32, size_px), interpolation=cv2.INTER_AREA), np.uint8)
    pixels.flags.writeable = False
    return pixels


def ophthalmic(samples: Samples, **attributes: object) -> Dataset:
    """Return an Ophthalmic Photography image, native little endian, valid for its IOD.

    Args:
        samples: (H, W), (H, W, 3), or with N frames before; 16 bit where they are uint16.
        attributes: take the place of others, by keyword; None takes one away.
    """
    dataset = _camera()
    is_colour = samples.shape[-1] == 3
    frames = samples if samples.ndim == 3 + is_colour else samples[None]
    dataset.NumberOfFrames = len(frames)
    dataset.FrameTime, dataset.FrameIncrementPointer = 40.0, 0x00181063
    is_wide = samples.dtype == np.uint16
    dataset.SOPClassUID = (
        uids.OphthalmicPhotography16BitImageStorage if is_wide else uids.OphthalmicPhotography8BitImageStorage
    )
    _put_pixels(dataset, frames, is_colour)
    for keyword, value in attributes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset


def _camera() -> Dataset:
    """Return everything but the pixels (PS3.3 A.41)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(dataset, keyword, uids.generate_uid())
    dataset.SynchronizationFrameOfReferenceUID = uids.generate_uid()
    dataset.update(_codes())
    for keyword, value in _PLAIN.items():
        setattr(dataset, keyword, value)
    return dataset


_PLAIN: dict[str, object] = {
    "PatientName": "",
    "PatientID": "",
    "PatientBirthDate": "",
    "PatientSex": "",
    "StudyDate": f"{ACQUIRED:%Y%m%d}",
    "StudyTime": f"{ACQUIRED:%H%M%S}",
    "ReferringPhysicianName": "",
    "StudyID": "1",
    "AccessionNumber": "",
    "Modality": "OP",
    "SeriesNumber": 1,
    "InstanceNumber": 1,
    "SynchronizationTrigger": "NO TRIGGER",
    "AcquisitionTimeSynchronized": "N",
    "Manufacturer": "Synthetic",
    "ManufacturerModelName": "Phantom 1",
    "DeviceSerialNumber": "1",
    "SoftwareVersions": "1",
    "ImageType": ["ORIGINAL", "PRIMARY", "", "COLOR"],
    "ContentDate": f"{ACQUIRED:%Y%m%d}",
    "ContentTime": f"{ACQUIRED:%H%M%S}",
    "AcquisitionDateTime": f"{ACQUIRED:%Y%m%d%H%M%S}",
    "PatientOrientation": ["L", "F"],
    "PixelSpacing": [0.01, 0.01],
    "LossyImageCompression": "00",
    "BurnedInAnnotation": "NO",
    "ImageLaterality": "R",
    "PatientEyeMovementCommanded": "NO",
    "HorizontalFieldOfView": 45.0,
    "RefractiveStateSequence": [],
    "EmmetropicMagnification": None,
    "IntraOcularPressure": None,
    "PupilDilated": "NO",
    "IlluminationTypeCodeSequence": [],
    "LightPathFilterTypeStackCodeSequence": [],
    "ImagePathFilterTypeStackCodeSequence": [],
    "LensesCodeSequence": [],
    "DetectorType": "CCD",
}


def _codes() -> Dataset:
    dataset = Dataset()
    dataset.AnatomicRegionSequence = [_code("5665001", "SCT", "Retina")]
    dataset.AcquisitionDeviceTypeCodeSequence = [_code("409898007", "SCT", "Fundus Camera")]
    return dataset


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _put_pixels(dataset: Dataset, frames: Samples, is_colour: bool) -> None:
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    dataset.SamplesPerPixel = 3 if is_colour else 1
    dataset.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    if is_colour:
        dataset.PlanarConfiguration = 0
    else:
        dataset.PresentationLUTShape = "IDENTITY"
    dataset.BitsAllocated = dataset.BitsStored = 8 * frames.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = frames.astype(frames.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"


def file_of(dataset: Dataset) -> bytes:
    """Return the object as a DICOM file."""
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def coded(dataset: Dataset, syntax: str) -> Dataset:
    """Return a native object in another transfer syntax; for lossy JPEG there is `with_streams`."""
    copied = deepcopy(dataset)
    if syntax in (uids.JPEGLossless, uids.JPEGLosslessSV1):
        return _coded_by_gdcm(copied, syntax)
    if uids.UID(syntax).is_compressed:
        plugin = "pylibjpeg" if syntax == uids.RLELossless else ""  # GDCM ends the process on odd widths
        copied.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    elif syntax == uids.ExplicitVRBigEndian and copied.BitsAllocated > 8:
        copied.PixelData = np.frombuffer(copied.PixelData, "<u2").astype(">u2").tobytes()
    copied.file_meta.TransferSyntaxUID = syntax
    return copied


def _coded_by_gdcm(dataset: Dataset, syntax: str) -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/object.dcm"
        Path(path).write_bytes(file_of(dataset))
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(path)
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(path)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return dcmread(io.BytesIO(Path(path).read_bytes()))


def with_streams(dataset: Dataset, streams: Sequence[bytes], syntax: str, photometric: str) -> Dataset:
    """Return the object with encoded frames in place of its pixels, behind a table of their offsets."""
    copied = deepcopy(dataset)
    copied.file_meta.TransferSyntaxUID = syntax
    copied.PhotometricInterpretation = photometric
    copied.PixelData = encapsulate(list(streams))
    copied["PixelData"].VR, copied["PixelData"].is_undefined_length = "OB", True
    if syntax == uids.JPEGBaseline8Bit:
        copied.LossyImageCompression = "01"
        copied.LossyImageCompressionMethod, copied.LossyImageCompressionRatio = "ISO_10918_1", 10.0
    return copied


def jpeg(pixels: NDArray[np.uint8], quality: int = 95) -> bytes:
    """Return pixels (H, W, 3) as a JPEG in YCbCr with a JFIF header, chroma at half the resolution."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def photograph(seed: int = 0, size_px: int = 96, **attributes: object) -> Dataset:
    """Return what most cameras write: a phantom as JPEG Baseline, YBR_FULL_422."""
    pixels = phantom(seed, size_px)
    native = ophthalmic(pixels, **attributes)
    return with_streams(native, [jpeg(pixels)], uids.JPEGBaseline8Bit, "YBR_FULL_422")
