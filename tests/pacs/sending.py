"""The command that sends, and a fake archive, for what no real one does on demand."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from click.testing import CliRunner, Result
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from tests.pacs.conftest import OP_8_BIT

from fundus_client.commands.pacs.send import send
from fundus_client.listener import free_port
from fundus_client.pacs.peer import Peer
from fundus_core.console import FundusGroup


def run(*arguments: object) -> Result:
    """Run the command in this process: starting another takes a second."""
    group = FundusGroup(commands={"send": send})
    return CliRunner().invoke(group, ["send", *map(str, arguments)])


def lines(result: Result) -> list[str]:
    return result.stdout.splitlines()


@contextmanager
def fake_archive(
    store: Callable[[evt.Event], int],
    classes: Sequence[str] = (OP_8_BIT,),
    syntaxes: Sequence[str] = (ExplicitVRLittleEndian,),
) -> Iterator[Peer]:
    """Answer C-STORE with what `store` returns: a fake, for what no real archive does on demand."""
    entity, port = AE("FAKE"), free_port()
    entity.add_supported_context(Verification)
    for each in classes:
        entity.add_supported_context(each, syntaxes)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield Peer("FAKE", "127.0.0.1", port)
    finally:
        server.shutdown()
