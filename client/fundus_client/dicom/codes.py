"""The coded concepts of our objects: the standard's where it has one, else of our own scheme.

Every code has one meaning for ever; docs/dicom-conformance.md lists them.
"""

from fundus_core.acquisition import Laterality
from fundus_core.errors import MissingExtraError

try:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from highdicom.sr import CodedConcept
except ImportError:
    raise MissingExtraError("dicom", "highdicom") from None

SCHEME = "99FUNDUS"
MAX_MEANING = 64  # characters of LO


def plain(text: str, most: int = MAX_MEANING) -> str:
    """Return the start of `text` as every DICOM character set can hold it: ASCII without a backslash."""
    return text.encode("ascii", "xmlcharrefreplace").decode().replace("\\", "/")[:most]


def _ours(code: str, meaning: str) -> CodedConcept:
    return CodedConcept(code, SCHEME, meaning)


OUR_SCHEME = CodingSchemeIdentificationItem(
    SCHEME, name="fundus-triton: scores of fundus photographs", responsible_organization="fundus-triton"
)

FUNDUS_PHOTOGRAPHY = CodedConcept("314971001", "SCT", "Camera fundoscopy")
EYE = CodedConcept("81745001", "SCT", "Eye")
LATERALITY: dict[Laterality, CodedConcept] = {
    "R": CodedConcept("24028007", "SCT", "Right"),
    "L": CodedConcept("7771000", "SCT", "Left"),
    "B": CodedConcept("51440002", "SCT", "Bilateral"),
}
NO_UNITS = CodedConcept("1", "UCUM", "no units")
COMMENT = CodedConcept("121106", "DCM", "Comment")
SOURCE_IMAGE = CodedConcept("121322", "DCM", "Source image for image processing operation")

PROBABILITY = CodedConcept("122157", "DCM", "Probability")
THRESHOLD = CodedConcept("122411", "DCM", "Threshold Value")
SPREAD = _ours("spread", "Highest minus lowest probability of the folds")
CALIBRATED = _ours("calibrated", "Calibrated probability")

AT_OR_ABOVE = _ours("at_or_above", "Probability at or above the threshold")
BELOW = _ours("below", "Probability below the threshold")
NO_SCORE = _ours("no_score", "No score")

QUALITY = CodedConcept("111101", "DCM", "Image Quality")
GRADABLE = _ours("gradable", "Gradable")
UNGRADABLE = _ours("ungradable", "Ungradable")

_DISEASES = {"glaucoma": CodedConcept("23986001", "SCT", "Glaucoma")}


def disease(label: str) -> CodedConcept:
    """Return what stands for one of a bundle's labels."""
    return _DISEASES.get(label) or _ours(plain(f"label:{label}"), plain(label))
