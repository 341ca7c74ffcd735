"""`fundus-client pacs pull`: fetch the photographs of some days from an archive into a folder."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fundus_client.commands.options import FILE
from fundus_client.commands.pacs.options import AET, HOST, MIN_FREE, OUR_PORT, PEER, TIMEOUT, WEB
from fundus_core.console import progress_bar, say, tls_options
from fundus_core.errors import EXIT_SOME_FAILED, MissingExtraError, UsageError
from fundus_core.pseudonyms import Pseudonyms, read_key
from fundus_core.tls import Tls

if TYPE_CHECKING:
    from fundus_client.pacs.archive import Archive
    from fundus_client.pacs.scp import Listening
    from fundus_client.pacs.spool import Change

EXAMPLES = """\b
Examples:
  fundus-client pacs pull night --from yesterday --peer PACS@pacs:104 --host 0.0.0.0
  fundus-client pacs pull study --from 2026-01-01 --to 2026-06-30 --web https://pacs/dicom-web

\b
Exit codes: 0 all is here, 1 fatal, 2 usage, 3 some series did not come, 4 archive unreachable."""


def _day(text: str) -> date:
    """Read "2026-11-24", "today" or "yesterday"."""
    today = date.today()
    named = {"today": today, "yesterday": today - timedelta(days=1)}
    try:
        return named.get(text) or date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no date. Write such as 2026-11-24, today or yesterday.") from None


@click.command(epilog=EXAMPLES)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--from", "first", required=True, type=_day, metavar="DATE", help="First StudyDate: a date, or yesterday."
)
@click.option("--to", "last", type=_day, metavar="DATE", help="Last StudyDate. [default: that of --from]")
@click.option("--modality", "modalities", multiple=True, default=["OP"], help="Of series; repeatable.")
@PEER
@WEB
@AET
@HOST
@OUR_PORT
@click.option("--allow", "allowed", multiple=True, help="AE title that may send. [default: that of --peer]")
@tls_options
@TIMEOUT
@click.option("--rate", default=0.0, type=click.FloatRange(0), help="Objects a second at most; 0: no limit.")
@click.option("--hours", help="Ask the archive at these hours only, such as 20-06. [default: always]")
@MIN_FREE
@click.option(
    "--deidentify", "key", type=FILE, help="Keep de-identified copies only, under the key in this file."
)
def pull(
    folder: Path,
    first: date,
    last: date | None,
    modalities: tuple[str, ...],
    peer: str | None,
    web: str | None,
    aet: str,
    host: str,
    port: int,
    allowed: tuple[str, ...],
    tls: Tls | None,
    timeout: float,
    rate: float,
    hours: str | None,
    min_free: float,
    key: Path | None,
) -> None:
    """Fetch the series of some days into FOLDER, as STUDY/OBJECT.dcm, from --peer or --web.

    The archive sends to our own listener, which runs meanwhile: it must know our AE title, host and port. A
    series counts as here when as many objects came as the archive says it has. After an interruption the same
    command goes on; series that have grown come again.

    With --deidentify nothing else is written, by the basic profile of PS3.15: one key joins what belongs
    together, over all pulls. What cannot be de-identified is refused, so that its series fails.
    """
    try:
        from fundus_client.pacs.archive import Query
        from fundus_client.pacs.pull import Hours, Manners, open_pull
        from fundus_client.pacs.scp import Listening
        from fundus_client.pacs.spool import GIB

        change, uid_of = _deidentifying(key) if key else (None, str)
    except ModuleNotFoundError as error:
        raise MissingExtraError("pacs", error.name or "pynetdicom") from None
    query = Query(first, last or first, modalities)
    manners = Manners(rate, Hours.parse(hours) if hours else None, int(min_free * GIB))
    listening = Listening(aet, host, port, allowed, min_free_bytes=manners.min_free_bytes)
    with (
        _open_archive(folder, peer, web, tls, timeout, listening, change) as archive,
        progress_bar() as bar,
    ):
        task = bar.add_task("pulling", total=None)
        with open_pull(archive, folder, manners, lambda _: bar.advance(task), uid_of) as opened:
            pulled = opened.run(query)
    for series, reason in pulled.failed.items():
        say(f"failed {series.series_uid}: {reason}")
    click.echo(pulled)
    sys.exit(EXIT_SOME_FAILED if pulled.failed else 0)


def _deidentifying(key: Path) -> "tuple[Change, Callable[[str], str]]":
    """Return what is stored in place of an object, and the pseudonyms of UIDs."""
    from fundus_client.pacs.deidentify import deidentified_file

    names = Pseudonyms(read_key(key))
    return partial(deidentified_file, names=names), names.of_uid


@contextmanager
def _open_archive(
    folder: Path,
    peer: str | None,
    web: str | None,
    tls: Tls | None,
    timeout_s: float,
    listening: "Listening",
    change: "Change | None",
) -> "Iterator[Archive]":
    from fundus_client.pacs.peer import Caller, Peer
    from fundus_client.pacs.retrieve import open_dimse
    from fundus_client.pacs.spool import open_spool
    from fundus_client.pacs.web import WebArchive, open_web

    if bool(peer) == bool(web):
        raise UsageError("Name the archive: either --peer AET@host:port or --web https://host/dicom-web.")
    if web:
        with open_spool(folder, listening.min_free_bytes, change) as spool:
            yield WebArchive(open_web(web, tls, timeout_s), spool)
    else:
        archive = Peer.parse(peer or "")
        caller = Caller(listening.ae_title, tls, timeout_s=timeout_s)
        listening = replace(listening, callers=listening.callers or (archive.ae_title,))
        with open_dimse(folder, archive, caller, listening, change) as opened:
            yield opened
