"""What is a colour photograph by the words of a DICOM header, and what is something else.

Only what a header codes counts: the SOP class; the modality; the third and further values of ImageType
(PS3.3 C.8.17.2.1.4); a contrast agent (PS3.3 C.7.6.4b). No term tells autofluorescence, the front of the
eye or skin from a colour photograph of a fundus: there, what the server measures of the pixels decides.
Wide-field projections (PS3.3 A.76, A.77) are no fundus photographs: their geometry is another one.
"""

from pydicom import uid as uids
from pydicom.dataset import Dataset

from fundus_client.dicom.part10 import text, texts, uid

KIND = ("SOPClassUID", "Modality", "ImageType", "ContrastBolusAgent", "ContrastBolusAgentSequence")

PHOTOGRAPHS = frozenset(
    (
        uids.OphthalmicPhotography8BitImageStorage,
        uids.OphthalmicPhotography16BitImageStorage,
        uids.VLPhotographicImageStorage,
        uids.SecondaryCaptureImageStorage,
        uids.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        uids.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        uids.MultiFrameTrueColorSecondaryCaptureImageStorage,
    )
)
_OF_A_CAMERA = frozenset(("", "OP", "XC", "OT", "SC"))
_OTHER_MODALITIES = {  # PS3.3 C.7.3.1.1.1, those of an eye clinic
    "AR": "autorefraction",
    "BDUS": "ultrasound",
    "DOC": "a document",
    "FA": "fluorescein angiography",
    "IOL": "intraocular lens data",
    "KER": "keratometry",
    "LEN": "lensometry",
    "OAM": "ophthalmic axial measurements",
    "OCT": "optical coherence tomography",
    "OPM": "ophthalmic mapping",
    "OPT": "ophthalmic tomography (OCT)",
    "OPTBSV": "an OCT B-scan volume analysis",
    "OPTENF": "an OCT en face image",
    "OPV": "a visual field",
    "SRF": "subjective refraction",
    "US": "ultrasound",
    "VA": "visual acuity",
}
_OTHER_LIGHT = {
    "BLUE": "blue light",
    "FA": "fluorescein angiography",
    "ICG": "indocyanine green angiography",
    "RED": "red light",
    "REDFREE": "red-free light",
}


def refusal(dataset: Dataset) -> str:
    """Return a sentence that says why the object is no colour photograph, "" where it may be one.

    Args:
        dataset: with the attributes `KIND`, where the object has them.
    """
    what = _other_class(dataset) or _other_modality(dataset) or _other_light(dataset)
    return what and f"By its header the object is no colour fundus photograph: {what}."


def _other_class(dataset: Dataset) -> str:
    sop_class = uids.UID(uid(dataset, "SOPClassUID"))
    if sop_class in PHOTOGRAPHS:
        return ""
    if not sop_class:
        return "it has no SOP class"
    name = sop_class.name.removesuffix(" Storage")
    return f"the SOP class {name}" if name == sop_class else name


def _other_modality(dataset: Dataset) -> str:
    modality = text(dataset, "Modality")
    return "" if modality in _OF_A_CAMERA else _OTHER_MODALITIES.get(modality, "another modality")


def _other_light(dataset: Dataset) -> str:
    terms = texts(dataset, "ImageType")[2:]
    if other := [_OTHER_LIGHT[term] for term in terms if term in _OTHER_LIGHT]:
        return other[0]
    has_agent = text(dataset, "ContrastBolusAgent") or dataset.get("ContrastBolusAgentSequence")
    return "an angiogram, taken with a contrast agent" if has_agent and "COLOR" not in terms else ""
