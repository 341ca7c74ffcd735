"""`fundus-client pacs listen`: receive studies, score them, send reports back, for as long as it runs."""

import asyncio
import logging
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import click

from fundus_client.commands.options import FILE, FOLDER, REPOSITORY, SECONDS, URLS, WAIT
from fundus_client.commands.pacs.options import AET, HOST, MIN_FREE, OUR_PORT, PEER, WEB, sender_to
from fundus_client.dicom.frames import unknown
from fundus_client.member import Patience
from fundus_client.servers import scoring_servers
from fundus_client.watching.events import EventLog
from fundus_core.console import tls_options
from fundus_core.ensemble import ENSEMBLE_MODEL
from fundus_core.pseudonyms import Pseudonyms, read_key
from fundus_core.tls import Tls

EXAMPLES = """\b
Examples:
  fundus-client pacs listen /srv/fundus --allow CAMERA --allow PACS --peer PACS@pacs:104
  fundus-client pacs listen /srv/fundus --web https://pacs/dicom-web --url triton:8001 --log events.jsonl

\b
Exit codes: 0 ended by SIGTERM or Ctrl-C, 1 fatal, 2 usage. Whoever is away is waited for."""


@click.command(epilog=EXAMPLES)
@click.argument("folder", type=FOLDER)
@PEER
@WEB
@AET
@click.option(
    "--archive-ca", type=FILE, help="PEM of the authority that the archive is trusted by: turns TLS on there."
)
@HOST
@OUR_PORT
@click.option("--allow", "callers", multiple=True, help="AE title that may send; repeatable. [default: any]")
@click.option(
    "--commit-to", multiple=True, help="AET@host:port of who asks for storage commitment; repeatable."
)
@click.option("--associations", default=8, type=click.IntRange(1), help="Senders at most at the same time.")
@MIN_FREE
@click.option("--quiet", "quiet_s", default=60.0, type=SECONDS, help="Seconds of silence that end a study.")
@click.option("--keep", "keep_days", default=30, type=click.IntRange(1), help="Days that objects are kept.")
@click.option("--pdf", "with_pdf", is_flag=True, help="Send a page for people beside each report.")
@click.option("--patient-key", "key", type=FILE, help="Key of the pseudonyms of patients in the tables.")
@URLS
@REPOSITORY
@click.option("--model", default=ENSEMBLE_MODEL, help="The ensemble to ask at --url.")
@tls_options
@click.option("--in-flight", default=64, type=click.IntRange(1), help="Images at most at each server.")
@click.option("--timeout", default=120.0, type=SECONDS, help="Seconds to wait for one answer.")
@WAIT
@click.option("--log", default="-", type=click.File("a"), help="File to append events to; -: stdout.")
def listen(
    folder: Path,
    peer: str | None,
    web: str | None,
    aet: str,
    archive_ca: Path | None,
    host: str,
    port: int,
    callers: tuple[str, ...],
    commit_to: tuple[str, ...],
    associations: int,
    min_free: float,
    quiet_s: float,
    keep_days: int,
    with_pdf: bool,
    key: Path | None,
    urls: tuple[str, ...],
    repository: Path | None,
    model: str,
    tls: Tls | None,
    in_flight: int,
    timeout: float,
    wait: float,
    log: TextIO,
) -> None:
    """Receive DICOM objects (C-STORE), score complete studies, send structured reports to --peer or --web.

    An object is acknowledged when it is safely in FOLDER. A study is complete when nothing was added to it
    for --quiet seconds; an object that comes later is scored by itself. Tables of scores lie in FOLDER/days,
    one for each day and bundle. Nothing is lost when a process, a server or the archive dies: what is missing
    is done when they are back. Each line of the log is a JSON object, without names of people.
    """
    sender = sender_to(peer, web, aet, Tls(archive_ca) if archive_ca else None, timeout)
    from fundus_client.dicom.evidence import Kind
    from fundus_client.pacs.listen import Rooms, Scoring, Sending
    from fundus_client.pacs.outbox import LEDGER, Outbox, open_sent_ledger
    from fundus_client.pacs.peer import Peer
    from fundus_client.pacs.receive import Listening, receiving
    from fundus_client.pacs.spool import GIB
    from fundus_client.pacs.studies import Studies

    rooms, events = Rooms(folder), EventLog(log)
    rooms.make()
    logging.getLogger("fundus_client").handlers = [events]
    requestors = tuple(map(Peer.parse, commit_to))
    settings = Listening(
        aet, host, port, callers, associations, min_free_bytes=int(min_free * GIB), commit_to=requestors
    )
    with (
        open_sent_ledger(rooms.reports / LEDGER) as ledger,
        scoring_servers(urls, repository, wait, tls) as endpoints,
        receiving(rooms.spool, settings, lambda stored: None, elsewhere=rooms.objects),
    ):
        sending = Sending(Outbox(rooms.reports, ledger, sender), events)
        kinds: tuple[Kind, ...] = ("sr", "pdf") if with_pdf else ("sr",)
        of_patient = Pseudonyms(read_key(key)).of_patient if key else unknown
        scoring = Scoring(
            rooms, Studies(rooms.spool, quiet_s), of_patient, kinds, keep_days, events, sending.add
        )
        events.tell("started", port=port, version=version("fundus-triton"))
        try:
            with sending.running():
                scoring.run(endpoints, Patience(timeout, wait, in_flight), model)
        except (SystemExit, KeyboardInterrupt, asyncio.CancelledError):
            if sending.fault:
                raise sending.fault from None
            events.tell("stopped")
