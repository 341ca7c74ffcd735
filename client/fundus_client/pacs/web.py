"""DICOMweb (PS3.18): search by QIDO-RS, retrieve by WADO-RS, store by STOW-RS.

Objects are asked for as they lie in the archive: one that transcodes them is ten times slower, and gets the
colours of mislabelled JPEG streams wrong.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset, dcmread, dcmwrite
from requests import HTTPError, PreparedRequest, RequestException, Response, Session
from requests.adapters import HTTPAdapter
from requests.exceptions import SSLError
from requests.utils import get_environ_proxies, get_netrc_auth
from urllib3 import Retry
from urllib3.exceptions import ConnectTimeoutError, InvalidHeader, NewConnectionError

from fundus_client.pacs.archive import ArchiveRefusesError, Query, Series
from fundus_client.pacs.send import Answer, Outgoing, answer_of
from fundus_client.pacs.spool import OUT_OF_RESOURCES, Spool, SpoolError, Stored, is_uid
from fundus_core.errors import PacsError, PacsUnreachableError, UsageError
from fundus_core.tls import Tls, refusal

TOKEN_VARIABLE = "FUNDUS_CLIENT_PACS_WEB_TOKEN"  # noqa: S105  the name of a variable
PAGE = 500  # of what a search finds
_BUSY = (429, 503)
_DENIED = (401, 403)
_STUDY, _SERIES, _OBJECT, _N_OBJECTS = "0020000D", "0020000E", "00080018", "00201209"
_TRIES = 4
_WHOLE = 2**40  # bytes: dicomweb-client sends what is longer in chunks, which not every server takes

_Found = dict[str, dict[str, Any]]
_T = TypeVar("_T")

logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL + 1)  # it logs what servers say


def open_web(url: str, tls: Tls | None, timeout_s: float) -> DICOMwebClient:
    """Return a client of the service at `url`; credentials come from ~/.netrc or the environment.

    A search or retrieval that a busy server (429, 503) puts off is tried again, after its `Retry-After`.

    Raises:
        UsageError: no address of a web service, or one that holds a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("The address of a DICOMweb service is written https://host/dicom-web.")
    if parts.username or parts.password or parts.query:
        raise UsageError(f"No address may hold a password. Put it into ~/.netrc or {TOKEN_VARIABLE}.")
    headers = {"Accept": "application/dicom+json"}
    if token := os.environ.get(TOKEN_VARIABLE):
        headers["Authorization"] = f"Bearer {token}"
    client = DICOMwebClient(url.rstrip("/"), _session(url, tls), headers=headers, timeout=timeout_s)
    client.set_http_retry_params(retry=False)  # it would not look at Retry-After
    return client


def _session(url: str, tls: Tls | None) -> Session:
    session = Session()
    session.trust_env = False  # else REQUESTS_CA_BUNDLE would be trusted beside --tls-ca
    session.proxies, session.auth = get_environ_proxies(url), get_netrc_auth(url)
    session.verify = str(tls.ca) if tls else True
    session.hooks["response"].append(_check)
    retry = Retry(connect=0, read=0, other=0, status=_TRIES, status_forcelist=_BUSY, allowed_methods=["GET"])
    retry.backoff_factor, retry.backoff_jitter = 1, 1  # seconds, where there is no Retry-After
    session.mount("https://", _Adapter(tls, max_retries=retry))
    session.mount("http://", HTTPAdapter(max_retries=retry))
    return session


class _Adapter(HTTPAdapter):
    """With the context of our TLS, and a sentence where client and server don't agree on it."""

    def __init__(self, tls: Tls | None, **options: Any) -> None:
        self._tls = tls
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, ssl_context=self._tls and self._tls.context())

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        try:
            return super().send(request, *args, **options)
        except SSLError:
            parts = urlsplit(str(request.url))
            address = f"{parts.hostname}:{parts.port or 443}"
            why = refusal(address, self._tls) or f"{address} and we do not agree on TLS. Check --tls-ca."
            raise PacsUnreachableError(why) from None


def _check(response: Response, **_: object) -> None:
    """Refuse an object or a list whose end nobody could tell from a broken connection."""
    kind = response.headers.get("Content-Type", "")
    if "json" in kind:
        response.headers["Content-Type"] = kind.partition(";")[0]  # the client knows no charset behind it
    has_end = bool(response.headers.keys() & {"content-length", "transfer-encoding"})
    if response.request.method == "GET" and response.status_code == 200 and not has_end:
        raise RequestException("an answer without a length")


@dataclass(frozen=True)
class WebArchive:
    """QIDO-RS by pages, and WADO-RS one object at a time into `spool`: memory holds a few copies of one."""

    client: DICOMwebClient
    spool: Spool

    def series(self, query: Query) -> Iterator[Series]:
        """Yield the series of the query's modalities, day by day, see `archive.Archive`."""
        for day in query.days():
            for modality in query.modalities:
                filters = {"StudyDate": f"{day:%Y%m%d}", "Modality": modality}
                search = partial(self.client.search_for_series, search_filters=filters, fields=[_N_OBJECTS])
                for found in self._listed(search, _SERIES):
                    uids = _value(found, _STUDY), _value(found, _SERIES)
                    if all(map(is_uid, uids)):
                        count = _value(found, _N_OBJECTS)
                        yield Series(*uids, int(count) if count.isdecimal() else 0)

    def fetch(self, series: Series, on_stored: Callable[[Stored], None]) -> None:
        """Have every object of a series stored, see `archive.Archive`."""
        missing, n_objects = Counter[str](), 0
        uids = series.study_uid, series.series_uid
        for found in self._listed(partial(self.client.search_for_instances, *uids), _OBJECT):
            n_objects += 1
            try:
                on_stored(self._fetch_one(*uids, _value(found, _OBJECT)))
            except _NoObjectError as error:
                missing[str(error)] += 1
        if n_objects < series.n_objects:
            missing["not listed"] = series.n_objects - n_objects
        if missing:
            reasons = "; ".join(f"{count}: {reason}" for reason, count in missing.most_common())
            raise PacsError(f"{missing.total()} objects are missing: {reasons}")

    def _fetch_one(self, study_uid: str, series_uid: str, sop_uid: str) -> Stored:
        get = partial(self.client.retrieve_instance, media_types=(("application/dicom", "*"),))
        try:
            encoded = _encoded(self._asked(partial(get, study_uid, series_uid, sop_uid)))
            stored = self.spool.put(encoded)
        except HTTPError as error:
            raise _NoObjectError(f"HTTP {_response(error).status_code}") from None
        except SpoolError as error:
            if error.status == OUT_OF_RESOURCES:
                raise
            raise _NoObjectError(str(error)) from None
        except PacsError:
            raise
        except Exception:  # damage makes pydicom raise many kinds
            raise _NoObjectError("An object could not be read.") from None
        if (stored.study_uid, stored.series_uid, stored.sop_uid) != (study_uid, series_uid, sop_uid):
            raise _NoObjectError("Another object came than was asked for.")
        return stored

    def _listed(self, search: Callable[..., list[_Found]], tag: str) -> Iterator[_Found]:
        """Yield what a search finds, page by page, once by the UID at `tag`."""
        seen, offset = set[str](), 0
        while True:
            try:
                page = self._asked(partial(search, limit=PAGE, offset=offset))
            except HTTPError as error:
                raise PacsError(
                    f"{self.client.base_url} answers the search with HTTP {_response(error).status_code}."
                ) from None
            new = {_value(each, tag): each for each in page}
            if new.keys() <= seen:  # none is left, or the archive knows no pages
                return
            yield from (each for uid, each in new.items() if uid not in seen)
            seen |= new.keys()
            offset += len(page)

    def _asked(self, ask: Callable[[], _T]) -> _T:
        name = str(self.client.base_url)
        try:
            return ask()
        except HTTPError as error:
            if (code := _response(error).status_code) in _DENIED:
                raise _refusal(code, name) from None
            raise
        except RequestException as error:
            raise _unreachable(name, error) from None


class _NoObjectError(PacsError):
    """One object of a series that cannot be had; the others can."""


def _value(found: _Found, tag: str) -> str:
    """Return the first value of an attribute in DICOM JSON (PS3.18 F), "" where there is none."""
    return str(next(iter(found.get(tag, {}).get("Value", ())), ""))


def _encoded(dataset: Dataset) -> bytes:
    with BytesIO() as buffer:
        dcmwrite(buffer, dataset)
        return buffer.getvalue()


def _response(error: HTTPError) -> Response:
    return cast(Response, error.response)  # None only where nobody had an answer


@dataclass(frozen=True)
class WebSender:
    """STOW-RS, one object a request, so that each has an answer of its own."""

    client: DICOMwebClient

    def __post_init__(self) -> None:
        self.client.set_chunk_size(_WHOLE)

    @property
    def name(self) -> str:
        """The archive as the address of its service."""
        return str(self.client.base_url)

    def send(self, objects: Iterable[Outgoing]) -> Iterator[tuple[Outgoing, Answer]]:
        """Yield what became of each object, see `fundus_client.pacs.send.Sender`."""
        for each in objects:
            yield each, self._store(each)

    def _store(self, each: Outgoing) -> Answer:
        try:
            dataset = dcmread(each.path)
        except Exception:  # damage makes pydicom raise many kinds
            return Answer("refused", "the file changed, is damaged or cannot be read")
        try:
            return _stored(self.client.store_instances([dataset]), each.sop_uid)
        except HTTPError as error:
            return _answer(_response(error), each.sop_uid, self.name)
        except RequestException as error:
            if _is_away(error):
                raise _unreachable(self.name, error) from None
            return Answer("later", "the archive fell silent")
        except PacsError:
            raise
        except Exception:  # what is no answer of STOW makes the client raise many kinds
            return Answer("later", "the archive answered what nobody understands")


def _unreachable(name: str, error: RequestException) -> PacsUnreachableError:
    hint = "Check its address and the network, and that it runs."
    return PacsUnreachableError(f"{name} does not answer ({type(error).__name__}). {hint}")


def _is_away(error: RequestException) -> bool:
    """Whether there was no connection; else the object was on its way, and may be what breaks it."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, NewConnectionError | ConnectTimeoutError)


def _stored(answer: Dataset, sop_uid: str) -> Answer:
    """Read a Store Instances Response (PS3.18 10.5.3)."""
    for failed in answer.get("FailedSOPSequence", ()):
        if failed.get("ReferencedSOPInstanceUID") == sop_uid:
            return answer_of(int(failed.get("FailureReason", 0x0110)))
    for stored in answer.get("ReferencedSOPSequence", ()):
        if stored.get("ReferencedSOPInstanceUID") == sop_uid:
            return answer_of(int(stored.get("WarningReason", 0)))
    return Answer("later", "the archive did not say that it has it")


def _answer(response: Response, sop_uid: str, name: str) -> Answer:
    """Return what an HTTP error means for the object that was sent."""
    code = response.status_code
    if code in _BUSY:
        return Answer("later", f"HTTP {code}", _retry_after_s(response))
    if code in (*_DENIED, 404, 405):
        raise _refusal(code, name)
    if code >= 500:
        return Answer("later", f"HTTP {code}")
    try:
        return _stored(Dataset.from_json(response.json()), sop_uid)
    except Exception:  # noqa: BLE001, RUF100  whatever else stands in the answer
        return Answer("refused", f"HTTP {code}")


def _refusal(code: int, name: str) -> PacsError:
    hint = f"Put credentials into ~/.netrc or {TOKEN_VARIABLE}, or correct the address."
    return ArchiveRefusesError(f"{name} refuses us (HTTP {code}). {hint}")


def _retry_after_s(response: Response) -> float:
    try:
        return Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except InvalidHeader:
        return 0.0
