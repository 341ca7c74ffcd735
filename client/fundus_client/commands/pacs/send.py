"""`fundus-client pacs send`: DICOM objects of a folder to an archive, each until the archive has it."""

import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from fundus_client.commands.options import FOLDER
from fundus_client.commands.pacs.options import AET, HOST, OUR_PORT, PEER, TIMEOUT, WEB, sender_to
from fundus_core.console import progress_bar, tls_options
from fundus_core.errors import EXIT_RETRY_LATER, EXIT_SOME_FAILED, UsageError
from fundus_core.tls import Tls

if TYPE_CHECKING:
    from fundus_client.pacs.outbox import Outbox, Tally
    from fundus_client.pacs.send import DimseSender

EXAMPLES = """\b
Examples:
  fundus-client pacs send reports --peer ORTHANC@pacs:4242
  fundus-client pacs send reports --web https://pacs/dicom-web --tls-ca ca.pem --retry-for 2d

\b
Exit codes: 0 all sent, 1 fatal, 2 usage, 3 some refused, 4 nobody answered, 75 put off: run again later."""
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(text: str) -> float:
    """Read "90s", "30m", "12h" or "3d"."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if not found:
        raise UsageError(f"{text!r} is no duration. Write such as 90s, 30m, 12h or 3d.")
    return float(found[1]) * _UNIT_S[found[2]]


@click.command(epilog=EXAMPLES)
@click.argument("folder", type=FOLDER)
@PEER
@WEB
@AET
@tls_options
@click.option(
    "--retry-for",
    default="0s",
    type=_seconds,
    metavar="DURATION",
    help="Try so long where the archive is away or busy.",
)
@click.option(
    "--commit", is_flag=True, help="Then ask --peer for storage commitment; it answers at --host and --port."
)
@HOST
@OUR_PORT
@TIMEOUT
def send(
    folder: Path,
    peer: str | None,
    web: str | None,
    aet: str,
    tls: Tls | None,
    retry_for: float,
    commit: bool,
    host: str,
    port: int,
    timeout: float,
) -> None:
    """Send every DICOM object below FOLDER to an archive, as --peer (C-STORE) or --web (STOW-RS).

    An object counts as sent when the archive has said that it has it. FOLDER/.sent.ledger remembers that, so
    that the same command sends only what is missing. What the archive refuses is tried once in each run; when
    it is away, or out of resources, everything left is tried again with growing pauses for --retry-for.
    """
    sender = sender_to(peer, web, aet, tls, timeout)
    if commit and not peer:
        raise UsageError("--commit needs --peer: DICOMweb knows no storage commitment.")
    from fundus_client.pacs.outbox import LEDGER, Outbox, open_sent_ledger

    with open_sent_ledger(folder / LEDGER) as ledger, progress_bar() as bar:
        task = bar.add_task("sending", total=None)
        outbox = Outbox(folder, ledger, sender, lambda *_: bar.advance(task))
        ledger.forget_refusals(sender.name)
        outbox.scan()
        n_before = outbox.tally().sent
        bar.update(task, total=outbox.tally().total, completed=n_before)
        _keep_sending(outbox, time.monotonic() + retry_for)
        tally = outbox.tally()
        click.echo("\n".join(_lines(tally, n_before, sender.name)))
        if commit and tally.sent and not outbox.trouble:
            _commit(outbox, host, port)
            tally = outbox.tally()
            click.echo(f"committed {tally.committed} of {tally.sent} objects")
    if tally.waiting and outbox.trouble:
        raise outbox.trouble
    sys.exit(EXIT_RETRY_LATER if tally.waiting else EXIT_SOME_FAILED if tally.refused else 0)


def _keep_sending(outbox: "Outbox", until_s: float) -> None:
    """Send until nothing waits any more, or the time is over; at least once."""
    while True:
        outbox.send(time.monotonic())
        if not outbox.tally().waiting or outbox.next_at > until_s:
            return
        time.sleep(max(0.0, outbox.next_at - time.monotonic()))


def _commit(outbox: "Outbox", host: str, port: int) -> None:
    """Ask for storage commitment, with a listener for the answer."""
    from fundus_client.pacs.commitment import Answers, Reference, request_commitment
    from fundus_client.pacs.scp import Listening, serving

    sender = cast("DimseSender", outbox.sender)
    peer, caller, answers = sender.peer, sender.caller, Answers()
    listening = Listening(caller.ae_title, host, port, (peer.ae_title,))
    with serving(listening, answers.contexts, answers.handlers):
        outbox.commit(
            lambda objects: request_commitment(
                peer,
                caller,
                [Reference(each.class_uid, each.sop_uid) for each in objects],
                answers,
                caller.timeout_s,
            )
        )


def _lines(tally: "Tally", n_before: int, name: str) -> list[str]:
    before = f", {n_before} of them before" if n_before else ""
    return [
        f"sent {tally.sent} of {tally.total} objects to {name}{before}",
        *_reasons("failed", tally.refused),
        *_reasons("waiting", tally.waiting),
        *_reasons("noted", tally.notes),
    ]


def _reasons(word: str, counted: Counter[str]) -> list[str]:
    return [f"{word} {count}: {reason}" for reason, count in counted.most_common()]
