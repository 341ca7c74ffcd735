"""Search and retrieval by DICOMweb: a real Orthanc, and a fake server for what Orthanc never answers."""

import json
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, generate_uid
from tests.pacs.conftest import Orthanc, photograph, save
from tests.pacs.webserver import Fake, fake
from tests.planted import JPEG

from fundus_client.listener import free_port
from fundus_client.pacs import web as web_module
from fundus_client.pacs.archive import Query, Series
from fundus_client.pacs.spool import Spool, Stored, open_spool
from fundus_client.pacs.web import TOKEN_VARIABLE, WebArchive, open_web
from fundus_core.errors import PacsError, PacsUnreachableError, UsageError
from fundus_core.tls import Tls

QUERY = Query(date(2026, 11, 24), date(2026, 11, 25))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with open_spool(tmp_path / "spool", 0) as opened:
        yield opened


def archive(url: str, spool: Spool, tls: Tls | None = None) -> WebArchive:
    return WebArchive(open_web(url, tls, 10.0), spool)


def fetched(source: WebArchive, series: Series) -> list[Stored]:
    stored: list[Stored] = []
    source.fetch(series, stored.append)
    return stored


def jpeg_photograph() -> object:
    ds = photograph()
    ds.file_meta.TransferSyntaxUID, ds.PhotometricInterpretation = JPEGBaseline8Bit, "RGB"  # a wrong label
    ds.Rows, ds.Columns, ds.PixelData = 60, 88, encapsulate([JPEG])
    return ds


def test_series_of_the_days_and_modalities_are_found_page_by_page(
    orthanc: Orthanc, spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_module, "PAGE", 2)
    wanted = [photograph(day=day) for day in ("20261124", "20261124", "20261124", "20261125", "20261125")]
    wanted.append(photograph(wanted[0].StudyInstanceUID, wanted[0].SeriesInstanceUID))
    others = [photograph(day="20261123"), photograph(modality="OPT")]
    orthanc.upload(save([*wanted, *others], tmp_path / "objects"))
    found = list(archive(orthanc.dicomweb, spool).series(QUERY))
    assert len(found) == 5
    assert {each.series_uid for each in found} == {each.SeriesInstanceUID for each in wanted}
    assert max(found, key=lambda each: each.n_objects) == Series(
        str(wanted[0].StudyInstanceUID), str(wanted[0].SeriesInstanceUID), 2
    )


def test_an_object_comes_as_it_lies_in_the_archive(orthanc: Orthanc, spool: Spool, tmp_path: Path) -> None:
    (path,) = save([jpeg_photograph()], tmp_path / "objects")  # type: ignore[list-item]
    orthanc.upload([path])
    source = archive(orthanc.dicomweb, spool)
    (stored,) = fetched(source, next(source.series(QUERY)))
    here, there = dcmread(stored.path), dcmread(path)
    assert here.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert here.PixelData == there.PixelData


def test_a_series_that_came_short_is_an_error_with_its_numbers(
    orthanc: Orthanc, spool: Spool, tmp_path: Path
) -> None:
    orthanc.upload(save([photograph()], tmp_path / "objects"))
    source = archive(orthanc.dicomweb, spool)
    found = next(source.series(QUERY))
    with pytest.raises(PacsError, match="2 objects are missing: 2: not listed"):
        fetched(source, Series(found.study_uid, found.series_uid, 3))


def test_an_archive_that_is_gone_is_unreachable(spool: Spool) -> None:
    with pytest.raises(PacsUnreachableError, match="does not answer"):
        list(archive(f"http://127.0.0.1:{free_port()}/dicom-web", spool).series(QUERY))


def test_no_password_is_taken_from_the_command_line() -> None:
    with pytest.raises(UsageError, match="netrc") as raised:
        open_web("https://user:secret@pacs/dicom-web", None, 1.0)
    assert "secret" not in str(raised.value)


def found_json(*uids: str) -> bytes:
    return json.dumps([{"0020000D": {"Value": [uid]}, "0020000E": {"Value": [uid]}} for uid in uids]).encode()


def test_a_busy_server_is_asked_again_after_the_time_that_it_names(spool: Spool) -> None:
    asked_at: list[float] = []

    def script(request: Fake) -> None:
        asked_at.append(time.monotonic())
        if len(asked_at) == 1:
            request.reply(503, Retry_After="1")
        else:
            request.reply(200, b"[]")

    with fake(script) as (url, _):
        assert list(archive(url, spool).series(Query(QUERY.first, QUERY.first))) == []
    assert asked_at[1] - asked_at[0] >= 1.0


def test_a_server_that_knows_no_pages_is_not_asked_for_ever(spool: Spool) -> None:
    with fake(lambda request: request.reply(200, found_json("1.2", "1.3"))) as (url, seen):
        found = list(archive(url, spool).series(Query(QUERY.first, QUERY.first)))
    assert [each.series_uid for each in found] == ["1.2", "1.3"]
    assert len(seen) == 2


def test_a_server_that_wants_credentials_is_a_sentence(spool: Spool) -> None:
    with fake(lambda request: request.reply(401)) as (url, _), pytest.raises(PacsError, match="netrc"):
        list(archive(url, spool).series(QUERY))


def test_credentials_come_from_the_environment_or_netrc(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login us password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with fake(lambda request: request.reply(200, b"[]")) as (url, seen):
        list(archive(url, spool).series(Query(QUERY.first, QUERY.first)))
        monkeypatch.setenv("NETRC", "/nowhere")
        monkeypatch.setenv(TOKEN_VARIABLE, "abc")
        list(archive(url, spool).series(Query(QUERY.first, QUERY.first)))
    assert [each.headers["Authorization"] for each in seen] == ["Basic dXM6c2VjcmV0", "Bearer abc"]


def test_an_answer_that_breaks_off_is_never_an_object(spool: Spool, tmp_path: Path) -> None:
    (path,) = save([photograph()], tmp_path / "objects")
    ds, whole = dcmread(path), path.read_bytes()

    def script(request: Fake) -> None:
        if "/instances?" in request.path:
            request.reply(200, json.dumps([{"00080018": {"Value": [ds.SOPInstanceUID]}}]).encode())
            return
        request.send_response(200)
        request.send_header("Content-Type", 'multipart/related; type="application/dicom"; boundary=x')
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + whole[:-100])

    series = Series(str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), 1)
    with fake(script) as (url, _), pytest.raises(PacsUnreachableError):
        fetched(archive(url, spool), series)
    assert not list(spool.folder.rglob("*.dcm"))


def test_another_object_than_was_asked_for_is_none(orthanc: Orthanc, spool: Spool, tmp_path: Path) -> None:
    (path,) = save([photograph()], tmp_path / "objects")
    asked = generate_uid()

    def script(request: Fake) -> None:
        if "/instances?" in request.path:
            request.reply(200, json.dumps([{"00080018": {"Value": [asked]}}]).encode())
        else:
            part = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n--x--"
            request.reply(200, part, 'multipart/related; type="application/dicom"; boundary=x')

    with fake(script) as (url, _), pytest.raises(PacsError, match="Another object"):
        fetched(archive(url, spool), Series(asked, asked, 1))
