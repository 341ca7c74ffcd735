"""Photographs with a mark in every attribute that holds a text, a date, a time or a number, and the search.

A mark says where it was planted, so that `leaks` names the attributes that some bytes were made of.
"""

import base64
import re
import warnings
import zlib
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from io import BytesIO
from itertools import cycle
from pathlib import Path

from pyarrow import parquet
from pydicom import Dataset, dcmread, dcmwrite
from pydicom import uid as uids
from pydicom.datadict import DicomDictionary, RepeatersDictionary, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import BaseTag
from tests.dicom.objects import coded, file_of, jpeg, ophthalmic, phantom, with_streams
from tests.planted import BYTES, DATE, jpeg_with, segment

# What makes an object a photograph that can be scored, and what a table may say of it.
NEEDED = frozenset(
    (
        *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
        *("Modality", "ImageType", "ImageLaterality", "AcquisitionDateTime"),
        *(
            "Manufacturer",
            "ManufacturerModelName",
            "NumberOfFrames",
            "PhotometricInterpretation",
            "PixelData",
        ),
        "NumberOfSeriesRelatedInstances",  # DICOMweb of Orthanc believes what an object says of it
    )
)
FILED_BY = frozenset(  # what a report says of patient and study: docs/dicom-conformance.md
    (
        *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "AccessionNumber"),
        *("StudyDate", "StudyTime", "StudyID", "StudyDescription", "ReferringPhysicianName"),
        "InstanceNumber",
    )
)
JAPANESE = "山田太郎"
_TEXTS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT", "OB", "UN"))
_PLANTED = _TEXTS | frozenset(("AE", "CS", "IS", "DS", "DA", "DT", "TM", "AS", "UR", "UI"))
_DAY, _FRACTION = date(1931, 1, 1), 739184  # no day, and no fraction of a second, of anything else here


def _attributes() -> dict[int, tuple[str, str]]:
    """Return VR and keyword of each attribute of the standard that is planted."""
    repeated = {int(mask.replace("x", "0"), 16): entry for mask, entry in RepeatersDictionary.items()}
    return {
        tag: (vr, keyword)
        for tag, (vr, _, _, _, keyword) in sorted((DicomDictionary | repeated).items())
        if tag >> 16 not in (0x0000, 0x0002, 0xFFFE) and keyword and keyword not in NEEDED
    }


ATTRIBUTES = _attributes()
_NUMBERED = {
    tag: number
    for vrs in ("DADT", "TM", "IS", "DS")
    for number, tag in enumerate(tag for tag, (vr, _) in ATTRIBUTES.items() if vr in vrs)
}


def mark(tag: int, vr: str) -> str:
    """Return the text that is planted at `tag`; "" where its VR holds none."""
    number = _NUMBERED.get(tag, 999)
    day = f"{_DAY + timedelta(number):%Y%m%d}"
    texts = {
        **dict.fromkeys(_TEXTS, f"Zqx{tag:08X}"),
        **dict.fromkeys(("AE", "CS"), f"ZQX{tag:08X}"),
        "IS": f"7391{number:04}",
        "DS": f"7391{number:04}.5",
        "DA": day,
        "DT": f"{day}113745.{_FRACTION}",
        "TM": f"11{number // 60:02}{number % 60:02}.{_FRACTION}",
        "AS": "087Y",
        "UR": f"http://Zqx{tag:08X}/",
    }
    return texts.get(vr, "")


_KEYWORD_OF = {mark(tag, vr): keyword for tag, (vr, keyword) in ATTRIBUTES.items()}
_BY_TAG = re.compile(r"zqx([0-9a-f]{8})", re.IGNORECASE)
_BY_VALUE = re.compile(
    rf"(?<!\d)(?:7391\d{{4}}(?:\.5|(?!\d{{6}}))|1931\d{{4}}(?:113745\.{_FRACTION}|(?!\d{{6}}))|087Y)|11\d{{4}}\.{_FRACTION}"
)
_WRITTEN_OTHERWISE = re.compile(r"(?<=\d)[-:T](?=\d\d)")  # ISO 8601
_JAPANESE = (
    *(JAPANESE[:2].encode(codec) for codec in ("utf-8", "utf-16-le", "utf-16-be", "shift_jis", "euc_jp")),
    JAPANESE[:2].encode("iso2022_jp")[3:-3],  # without its escapes
    JAPANESE[:2].encode("ascii", "xmlcharrefreplace"),
    JAPANESE[:2].encode("ascii", "backslashreplace"),
)


def leaks(data: bytes) -> set[str]:
    """Return the keywords of the attributes that some bytes hold a mark of, in any encoding."""
    wide = data.replace(b"\0", b"").decode("latin-1")  # what is left of UTF-16
    text = _WRITTEN_OTHERWISE.sub("", f"{data.decode('latin-1')}\n{wide}")
    tags = {int(each, 16) for each in _BY_TAG.findall(text)}
    names = {ATTRIBUTES[tag][1] if tag in ATTRIBUTES else f"{tag:08X}" for tag in tags}
    names |= {_KEYWORD_OF[each] for each in _BY_VALUE.findall(text) if each in _KEYWORD_OF}
    names |= {"PatientName" for each in _JAPANESE if each in data}
    return names | ({"metadata of the JPEG"} if DATE.replace("-", "") in text else set())


def readable(data: bytes) -> bytes:
    """Return a file with what is packed in it, for the search."""
    if data.startswith(b"PAR1"):
        table = parquet.read_table(BytesIO(data))
        return data + repr((table.schema.metadata, table.to_pydict())).encode()
    pages = re.findall(rb"stream\r?\n(.+?)~>endstream", data, re.DOTALL)
    return data + b"".join(zlib.decompress(base64.a85decode(page)) for page in pages)


def told(folder: Path, *, objects_too: bool = True) -> dict[str, set[str]]:
    """Return what the names and contents of files say, by file; only those that say anything."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        is_read = path.is_file() and (objects_too or path.suffix != ".dcm")
        found[name] = leaks(name.encode()) | (leaks(readable(path.read_bytes())) if is_read else set())
    return {name: marks for name, marks in found.items() if marks}


def beyond(path: Path, keywords: frozenset[str] = FILED_BY) -> set[str]:
    """Return what an object says but in some attributes: by default those by which an archive files it."""
    with warnings.catch_warnings(action="ignore"), BytesIO() as buffer:
        ours = dcmread(path)
        for keyword in keywords & set(ours.dir()):
            if ours.get_item(keyword).VR != "SQ":
                del ours[keyword]
        dcmwrite(buffer, ours)
        return leaks(readable(buffer.getvalue()))


Value = Callable[[int, str, str], tuple[str, bytes]]  # tag, VR, codec -> VR, bytes


def planted(
    number: int,
    characters: str = "ISO_IR 100",
    codec: str = "latin-1",
    *,
    value: Value | None = None,
    last: int = 0x0010FFFF,
    **attributes: object,
) -> Dataset:
    """Return a photograph, the `number`-th of its kind, with a mark in every attribute.

    Args:
        number: makes its picture another one.
        characters: SpecificCharacterSet; "" for none.
        codec: that texts are really written in.
        value: gives what is planted; by default what the standard allows.
        last: the last tag at which anything is planted.
        attributes: take the place of others, by keyword; bytes as they are.
    """
    pixels = phantom(0, 64).copy()
    pixels[0, 0] = number
    made = ophthalmic(pixels)
    for tag, (vr, _) in ATTRIBUTES.items():
        if tag > last:
            break
        if vr == "SQ":
            made.add(DataElement(tag, "SQ", [item(tag)]))
        elif vr in _PLANTED:
            put(made, tag, *(value or allowed)(tag, vr, codec))
    for tag, vr in ((0x00110010, "LO"), (0x00111001, "PN"), (0x00111002, "UN")):  # private
        put(made, tag, vr, mark(tag, vr).encode())
    made.SpecificCharacterSet = characters.split("\\")
    for keyword, content in attributes.items():
        if isinstance(content, bytes):
            put(made, tag_for_keyword(keyword) or 0, dictionary_VR(keyword), content)
        else:
            setattr(made, keyword, content)
    made.preamble = mark(0x00020000, "LO").encode().ljust(128)
    made.file_meta.SourceApplicationEntityTitle = mark(0x00020016, "AE")
    made.file_meta.PrivateInformationCreatorUID = uids.generate_uid()
    made.file_meta.PrivateInformation = mark(0x00020102, "OB").encode()
    return made


def put(dataset: Dataset, tag: int, vr: str, data: bytes) -> None:
    """Put bytes at a tag as they are."""
    data += b" " * (len(data) % 2)
    dataset[tag] = RawDataElement(BaseTag(tag), vr, len(data), data, 0, False, True)


def item(tag: int) -> Dataset:
    """Return an item of a sequence that names somebody."""
    made = Dataset()
    put(made, 0x00100010, "PN", mark(tag, "PN").encode())
    return made


def allowed(tag: int, vr: str, codec: str) -> tuple[str, bytes]:
    """Return what the standard allows in `codec`; of a UID nothing is to be found."""
    text, name = mark(tag, vr), "Müller" if codec == "latin-1" else JAPANESE
    if vr == "UI":
        return vr, b"1.2.3"
    if vr == "PN":
        return vr, f"{text}^Given={text}^{name}".encode(codec)
    return vr, f"{text} {name}".encode(codec) if vr in ("LO", "LT", "ST", "UT") else text.encode()


def broken(tag: int, vr: str, codec: str) -> tuple[str, bytes]:
    """Return what pydicom complains about, with the value."""
    text = mark(tag, vr if vr in ("PN", "DA", "DT", "TM") else "LO")
    if vr == "PN":
        return vr, f"{text}^2^3^4^5^6^{JAPANESE}={text}=3=4=5\\{text}".encode(codec) + b"\xff\xfe"
    odd = b"\x07\x1b$B\xff\\" + b"x" * 70 if vr in _TEXTS else b""
    return vr, f"{text}x".encode() + odd


def _with_other_vrs(data: bytes) -> bytes:
    """Give the texts of a file the VRs of other things."""
    others = cycle((b"UI", b"DA", b"DS", b"IS", b"PN", b"AS", b"TM", b"US", b"FD", b"AT", b"SS"))
    told = rb"(?:LO|PN|SH|DA|TM|DS|IS|CS|AE|AS|DT|ST|LT)(..)(?=Zqx|ZQX|7391|1931|11\d\d)"
    return re.sub(told, lambda match: next(others) + match[1], data, flags=re.DOTALL)


def _with_metadata(number: int) -> Dataset:
    """Return a photograph as JPEG, with a name in the stream as well."""
    marks = segment(0xFE, BYTES), segment(0xE1, b"Exif\0\0" + BYTES)
    native = planted(number, NumberOfFrames=2)
    pixels = phantom(0, 64).copy()
    pixels[:8, :8] = number
    stream = jpeg_with(*marks, jpeg=jpeg(pixels)) + BYTES
    return with_streams(native, [stream, stream], uids.JPEGBaseline8Bit, "YBR_FULL_422")


def objects() -> dict[str, bytes]:
    """Return DICOM files by what is odd about them."""
    japanese, other = "\\ISO 2022 IR 87", mark(0x00080080, "LO").encode()
    every = partial(planted, last=0xFFFFFFFF)
    sequences = planted(1)
    for tag in (0x00080070, 0x00081090, 0x00081030):  # maker, model, StudyDescription
        sequences.add(DataElement(tag, "SQ", [item(0x00080080)]))
    whole = file_of(every(2))
    made = {
        "latin": every(3),
        "japanese": every(4, japanese, "iso2022_jp"),
        "utf-8, not declared": every(5, "", "utf-8"),
        "broken": every(6, "ISO_IR 192", "utf-8", value=broken),
        "broken japanese": every(7, japanese, "utf-8", value=broken),
        "no such character set": planted(8, "MYCHARS", "utf-8"),
        "implicit": coded(planted(9), uids.ImplicitVRLittleEndian),
        "deflated": coded(planted(10), uids.DeflatedExplicitVRLittleEndian),
        "big endian": coded(planted(11), uids.ExplicitVRBigEndian),
        "two frames of jpeg": _with_metadata(12),
        "another element in the maker": planted(13, Manufacturer=b"Maker\x08\x00\x80\x00LO\x0c\x00" + other),
        "names in the eye": planted(14, ImageLaterality=b"R\\" + other),
        "angiogram": planted(15, Modality="FA"),
        "document": planted(16, SOPClassUID=uids.ComprehensiveSRStorage, SOPInstanceUID=b"Zqx00080018"),
        "no study": planted(17, StudyInstanceUID=b"Zqx0020000D"),
        "sequences for texts": sequences,
    }
    return {name: file_of(each) for name, each in made.items()} | {
        "other vrs": _with_other_vrs(whole),
        "cut in the header": whole[:5000],
        "cut in the pixels": whole[:-5000],
    }
