"""Encoded pictures with a name in every place that no decoder needs, format by format."""

import io
import struct
import zlib

from PIL import Image, ImageCms, PngImagePlugin
from tests.planted_tiff import BYTES, DATE, NAME, RGB, tiff, tiff_ending_in_text

ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1")
PICTURE = Image.fromarray(RGB)


def encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def has_name(data: bytes) -> bool:
    return any(DATE.encode(encoding) in data for encoding in ENCODINGS)


def segment(code: int, body: bytes) -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(body) + 2) + body


def jpeg_with(*segments: bytes, jpeg: bytes | None = None) -> bytes:
    """Put segments behind the JFIF header."""
    jpeg = jpeg or encoded(PICTURE, "JPEG")
    return jpeg[:20] + b"".join(segments) + jpeg[20:]


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x010E], tags[0x013B], tags[0x9C9D] = NAME, NAME, NAME.encode("utf-16-le")
    tags.get_ifd(0x8769).update({0x927C: b"maker\0" + BYTES, 0x9286: b"UNICODE\0" + NAME.encode("utf-16-be")})
    tags.get_ifd(0x8825)[29] = NAME
    return tags


def icc() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile + NAME.encode("utf-16-be")


def between_scans(*segments: bytes) -> bytes:
    progressive = encoded(PICTURE, "JPEG", progressive=True)
    third = [at for at in range(len(progressive)) if progressive[at : at + 3] == b"\xff\xda\0"][2]
    return progressive[:third] + b"".join(segments) + progressive[third:]


def second_picture() -> bytes:
    other = Image.new("RGB", (88, 60), "red")
    return encoded(PICTURE, "MPO", save_all=True, append_images=[other], exif=exif()) + BYTES


JPEG = encoded(PICTURE, "JPEG")
CMYK = encoded(PICTURE.convert("CMYK"), "JPEG")
JFIF_THUMBNAIL = b"JFIF\0\1\2\0\0\1\0\1" + bytes((len(BYTES), 1)) + BYTES * 3
PLANTED_JPEG = {
    "exif": encoded(PICTURE, "JPEG", exif=exif()),
    "xmp": encoded(PICTURE, "JPEG", xmp=b"<x:xmpmeta>" + BYTES + b"</x:xmpmeta>"),
    "comment": encoded(PICTURE, "JPEG", comment=BYTES),
    "comments in many encodings": jpeg_with(
        *(segment(0xFE, NAME.encode(encoding)) for encoding in ENCODINGS)
    ),
    "icc": encoded(PICTURE, "JPEG", icc_profile=icc()),
    "iptc": jpeg_with(segment(0xED, b"Photoshop 3.0\0008BIM\4\4\0\0\0\0\0\x40\x1c\x02\x78\0\x3b" + BYTES)),
    "every application segment": jpeg_with(*(segment(code, BYTES) for code in range(0xE0, 0xF0))),
    "thumbnail in the JFIF header": JPEG[:2] + segment(0xE0, JFIF_THUMBNAIL) + JPEG[20:],
    "thumbnail beside the JFIF header": jpeg_with(segment(0xE0, b"JFXX\0\x13" + BYTES)),
    "behind the Adobe marker": CMYK.replace(CMYK[2:18], segment(0xEE, CMYK[6:18] + BYTES)),
    "long segment": jpeg_with(segment(0xFE, BYTES.ljust(65_000, b"\xff"))),
    "between segments": jpeg_with(b"\0" + BYTES + b"\xff\0", b"\xff\xff\xff" + segment(0xFE, BYTES)),
    "between scans": between_scans(segment(0xFE, BYTES), BYTES, segment(0xE1, b"Exif\0\0" + BYTES)),
    "behind the last scan": JPEG[:-2] + segment(0xFE, BYTES) + BYTES + b"\xff\xd9",
    "behind the end": JPEG + BYTES,
    "in further pictures (MPO)": second_picture(),
}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(*chunks: bytes, before: bytes = b"IDAT") -> bytes:
    at = PNG.index(before) - 4
    return PNG[:at] + b"".join(chunks) + PNG[at:]


def texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", DATE)
    info.add_text("Packed", DATE, zip=True)
    info.add_itxt("Title", NAME)
    return info


def png_of(*pixels: bytes, interlaced: bool = False) -> bytes:
    header = struct.pack(">IIBBBBB", 88, 60, 8, 2, 0, 0, interlaced)
    chunks = (chunk(b"IHDR", header), *(chunk(b"IDAT", part) for part in pixels), chunk(b"IEND", b""))
    return PNG[:8] + b"".join(chunks)


def interlaced() -> bytes:
    """RGB in the seven passes of Adam7."""
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    rows = [b"\0" + row.tobytes() for x, y, dx, dy in passes for row in RGB[y::dy, x::dx]]
    return png_of(zlib.compress(b"".join(rows)), interlaced=True)


PIXELS = zlib.compress(b"".join(b"\0" + row.tobytes() for row in RGB))
PNG = encoded(PICTURE, "PNG")
PLANTED_PNG = {
    "text": encoded(PICTURE, "PNG", pnginfo=texts()),
    "exif": encoded(PICTURE, "PNG", exif=exif()),
    "icc's name": png_with(
        chunk(b"iCCP", b"Muller\0\0" + zlib.compress(icc())), chunk(b"tEXt", b"a\0" + BYTES)
    ),
    "private chunks": png_with(chunk(b"prVt", BYTES), chunk(b"vpAg", BYTES)),
    "palette's name": png_with(chunk(b"sPLT", BYTES + b"\0\x08")),
    "behind the pixels": png_with(chunk(b"tEXt", b"a\0" + BYTES), before=b"IEND"),
    "behind the end": PNG + BYTES,
    "a chunk behind the end": PNG + chunk(b"IDAT", BYTES),
    "a further frame": encoded(
        PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(9)], pnginfo=texts()
    ),
}


FORMS = (
    *("strips", "planes", "tiles", "packed tiles", "packed", "one strip"),
    *("without lengths", "bits turned round", "ycbcr"),
)
PLANTED_TIFF = {
    **{f"{form} {order}": tiff(order, form=form) for order in "<>" for form in FORMS},
    "bigtiff": tiff(big=True),
    "wrong lengths": tiff(form="wrong lengths"),
    "text at the end": tiff_ending_in_text(),
    "by Pillow": encoded(
        PICTURE, "TIFF", exif=exif(), icc_profile=icc(), compression="tiff_lzw", description=NAME, artist=NAME
    ),
    "further pages": encoded(PICTURE, "TIFF", save_all=True, append_images=[PICTURE], description=NAME),
}


def bmp_v5(behind: bytes) -> bytes:
    """A BMP with a gap before its pixels, and the name of a colour profile behind them."""
    rows = RGB[::-1, :, ::-1].tobytes()  # 88 * 3 bytes need no padding
    info = struct.pack("<iiHHIIiiII", 88, 60, 1, 24, 0, len(rows), 0, 0, 0, 0) + bytes(16) + b"KNIL"
    profile = struct.pack("<IIII", 4, 124 + len(BYTES) + len(rows), len(BYTES), 0)
    header = struct.pack("<I", 124) + info + bytes(48) + profile
    assert len(header) == 124
    offset = 14 + 124 + len(BYTES)
    total = offset + len(rows) + len(BYTES)
    return b"BM" + struct.pack("<IHHI", total, 0, 0, offset) + header + BYTES + rows + behind


def bmp_of_runs() -> bytes:
    """Runs of one grey level a row, RLE8."""
    runs = b"".join(bytes((88, y * 4, 0, 0)) for y in range(60)) + b"\0\1"
    palette = b"".join(bytes((level, level, level, 0)) for level in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, 88, 60, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + header + palette + runs


BMP = encoded(PICTURE, "BMP")
PLANTED_BMP = {
    "behind the pixels": BMP + BYTES,
    "profile": bmp_v5(BYTES),
    "gap": bmp_v5(b""),
    "behind a palette": encoded(PICTURE.quantize(64), "BMP") + BYTES,
}

PLANTED = {
    f"{format_} {name}": data
    for format_, group in (
        ("jpeg", PLANTED_JPEG),
        ("png", PLANTED_PNG),
        ("tiff", PLANTED_TIFF),
        ("bmp", PLANTED_BMP),
    )
    for name, data in group.items()
}
