"""Options that the commands of the group `pacs` share."""

from typing import TYPE_CHECKING

import click

from fundus_client.commands.options import PORT, SECONDS
from fundus_client.listener import LOOPBACK
from fundus_core.errors import MissingExtraError, UsageError
from fundus_core.tls import Tls

if TYPE_CHECKING:  # pynetdicom takes 0.5 s, and most commands connect to no archive
    from fundus_client.pacs.send import Sender

PEER = click.option("--peer", help="The archive by DIMSE: AET@host:port, such as ORTHANC@pacs:4242.")
WEB = click.option("--web", help="The archive by DICOMweb instead: https://pacs/dicom-web.")
AET = click.option("--aet", default="FUNDUS", show_default=True, help="Our own AE title.")
HOST = click.option(
    "--host", default=LOOPBACK, show_default=True, help="Our address that is called; 0.0.0.0: all of ours."
)
OUR_PORT = click.option(
    "--port", default=11112, show_default=True, type=PORT, help="Our port that is called; without TLS."
)
MIN_FREE = click.option(
    "--min-free",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0),
    help="GiB that stay free on the disk.",
)
TIMEOUT = click.option(
    "--timeout", default=60.0, show_default=True, type=SECONDS, help="Seconds to wait for one answer."
)


def sender_to(peer: str | None, web: str | None, aet: str, tls: Tls | None, timeout_s: float) -> "Sender":
    """Return the way to the archive that --peer or --web names.

    Raises:
        UsageError: neither is given, or both, or it is no address.
        MissingExtraError: a library of the extra `pacs` is not installed.
    """
    if bool(peer) == bool(web):
        raise UsageError("Name the archive: either --peer AET@host:port or --web https://host/dicom-web.")
    try:
        from fundus_client.pacs.peer import Caller, Peer
        from fundus_client.pacs.send import DimseSender
        from fundus_client.pacs.web import WebSender, open_web
    except ModuleNotFoundError as error:
        raise MissingExtraError("pacs", error.name or "pynetdicom") from None
    if web:
        return WebSender(open_web(web, tls, timeout_s))
    return DimseSender(Peer.parse(peer or ""), Caller(aet, tls, timeout_s=timeout_s))
