"""The search for what was planted finds it, in every form."""

from datetime import date
from io import BytesIO
from pathlib import Path

import pytest
from pyarrow import Table, parquet
from reportlab.platypus import Paragraph, SimpleDocTemplate
from tests.dicom.objects import file_of
from tests.pacs.planting import ATTRIBUTES, leaks, mark, planted, readable, told

NAMED, DAY = mark(0x00100010, "PN"), date.fromisoformat(mark(0x00080020, "DA"))


@pytest.mark.parametrize("codec", ["utf-8", "utf-16", "latin-1"])
def test_the_search_finds_each_kind_of_mark_in_each_kind_of_file(codec: str, tmp_path: Path) -> None:
    for text in (NAMED, NAMED.lower(), "087Y", f"{DAY}", f"{DAY:%Y%m%d}", "11:00:00.739184", "73910000.5"):
        (tmp_path / "scores.csv").write_text(f"a,{text},b", codec)
        assert told(tmp_path), text
    (tmp_path / "scores.csv").write_text("a,2026-11-24,19310103123456789,b", codec)
    assert not told(tmp_path)
    (tmp_path / NAMED).touch()
    assert told(tmp_path) == {NAMED: {"PatientName"}}


def test_the_search_looks_into_pages_and_packed_tables(tmp_path: Path) -> None:
    assert leaks(file_of(planted(0, last=0xFFFFFFFF))) >= {
        each[1] for each in ATTRIBUTES.values() if each[0] in ("PN", "DA", "LO")
    }
    page = BytesIO()
    SimpleDocTemplate(page, invariant=1).build([Paragraph(NAMED)])
    assert not leaks(page.getvalue())
    assert leaks(readable(page.getvalue())) == {"PatientName"}
    parquet.write_table(Table.from_pydict({"image_id": [NAMED] * 9}), tmp_path / "a", compression="gzip")
    assert leaks(readable((tmp_path / "a").read_bytes())) >= {"PatientName"}
