"""`fundus-client watch`: score every photograph that arrives in a folder, for as long as the command runs."""

import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import TextIO

import click

from fundus_client.commands.options import FILE, FOLDER, PORT, REPOSITORY, SECONDS, TIMEOUT, URLS, WAIT
from fundus_client.listener import LOOPBACK
from fundus_client.member import Patience
from fundus_client.servers import scoring_servers
from fundus_client.watching.events import EventLog
from fundus_client.watching.filing import Filing, Places
from fundus_client.watching.inbox import Inbox, only_watch
from fundus_client.watching.ledger import open_ledger
from fundus_client.watching.metrics import Metrics, PrometheusMetrics
from fundus_client.watching.watch import Watch
from fundus_core.console import tls_options
from fundus_core.ensemble import ENSEMBLE_MODEL
from fundus_core.errors import UsageError
from fundus_core.pseudonyms import Pseudonyms, read_key
from fundus_core.tls import Tls

LEDGER = ".fundus-watch.ledger"
EXAMPLES = """\b
Examples:
  fundus-client watch inbox --done done --failed failed --url triton:8001
  fundus-client watch inbox --done done --failed failed --output tables --metrics-port 9100

\b
Exit codes: 0 ended by SIGTERM or Ctrl-C, 1 fatal, 2 usage. A server that is away is waited for."""


@click.command(epilog=EXAMPLES)
@click.argument("inbox", type=FOLDER)
@click.option("--done", required=True, type=FOLDER, help="Folder that scored files are moved to.")
@click.option("--failed", required=True, type=FOLDER, help="Folder for files that cannot be scored.")
@click.option("--output", type=FOLDER, help="Folder for the tables, one a day and bundle. [default: --done]")
@click.option("--settle", default=2.0, type=click.FloatRange(0), help="Seconds for a file to stay the same.")
@click.option("--poll", default=1.0, type=SECONDS, help="Seconds between two looks at INBOX.")
@URLS
@REPOSITORY
@click.option("--model", default=ENSEMBLE_MODEL, help="The ensemble to ask at --url.")
@tls_options
@click.option("--in-flight", default=64, type=click.IntRange(1), help="Images at most at each server.")
@TIMEOUT
@WAIT
@click.option(
    "--pseudonymise", "key", type=FILE, help="Write keyed pseudonyms for names; the file is the key."
)
@click.option("--log", default="-", type=click.File("a"), help="File to append events to; -: stdout.")
@click.option("--metrics-port", type=PORT, help="Answer Prometheus on this port. [default: no metrics]")
@click.option("--metrics-host", default=LOOPBACK, help="Address for --metrics-port; without TLS.")
def watch(
    inbox: Path,
    done: Path,
    failed: Path,
    output: Path | None,
    settle: float,
    poll: float,
    urls: tuple[str, ...],
    repository: Path | None,
    model: str,
    tls: Tls | None,
    in_flight: int,
    timeout: float,
    wait: float,
    key: Path | None,
    log: TextIO,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    """Score every image file that arrives in INBOX or below, write its row, then move it out.

    A file is taken when its size and time of change stayed the same for --settle seconds, or when it was
    renamed into place. Names that begin with a dot or end in .part, .tmp or .filepart are left until they
    are renamed. Scored files go to --done, others, with a reason in their row, to --failed. Each line of the
    log is a JSON object.
    """
    places = Places(inbox, done, failed, output or done)
    _check_apart(places)
    id_of = Pseudonyms(read_key(key)).of if key else str
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # until the watch itself hears them
    metrics = PrometheusMetrics(metrics_host, metrics_port) if metrics_port else Metrics()
    with (
        only_watch(inbox),
        open_ledger(places.tables / LEDGER) as ledger,
        scoring_servers(urls, repository, wait, tls) as endpoints,
    ):
        ledger.belongs_to(id_of(str(inbox.resolve())))
        events = EventLog(log)
        logging.getLogger("fundus_client").handlers = [events]
        watching = Watch(Inbox(inbox, settle, id_of), Filing(places, ledger), events, metrics, poll)
        asyncio.run(watching.run(endpoints, Patience(timeout, wait, in_flight), model))


def _check_apart(places: Places) -> None:
    """Refuse folders where what leaves the inbox may arrive in it again."""
    inbox = places.inbox.resolve()
    for folder in (places.done, places.failed):
        other = folder.resolve()
        if inbox == other or inbox in other.parents or other in inbox.parents:
            raise UsageError(f"'{folder}' and the inbox lie in each other. Put them side by side.")
