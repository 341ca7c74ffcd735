"""An archive of pynetdicom that misbehaves as a test wants."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import build_context, evt
from pynetdicom.events import EventHandlerType
from tests.pacs.conftest import photograph

from fundus_client.pacs import scp
from fundus_client.pacs.peer import Peer
from fundus_client.pacs.scp import Listening

FIND, MOVE = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"


class Fake:
    """An archive of pynetdicom, which a test tells how to misbehave."""

    def __init__(self, objects: list[Dataset], us: Peer) -> None:
        self.objects, self.us = objects, us
        self.counts = True  # whether it says how many objects a series has
        self.withheld = set[str]()  # objects that it has, and does not send
        self.answer: list[int] = []  # in place of moving anything
        self.n_moves = 0
        self.searches: list[Dataset] = []

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        """Answer a search of any level."""
        self.searches.append(event.identifier)
        level, found = event.identifier.QueryRetrieveLevel, dict[str, Dataset]()
        for each in self.objects:
            key = {
                "STUDY": each.StudyInstanceUID,
                "SERIES": each.SeriesInstanceUID,
                "IMAGE": each.SOPInstanceUID,
            }[level]
            answer = Dataset()
            answer.StudyInstanceUID, answer.SeriesInstanceUID = each.StudyInstanceUID, each.SeriesInstanceUID
            answer.SOPInstanceUID, answer.Modality = each.SOPInstanceUID, each.Modality
            if self.counts:
                answer.NumberOfSeriesRelatedInstances = len(self.objects)
            found[key] = answer
        yield from ((0xFF00, each) for each in found.values())

    def move(self, event: evt.Event) -> Iterator[object]:
        """Send what is not withheld."""
        self.n_moves += 1
        yield self.us.host, self.us.port, {"contexts": [build_context(self.objects[0].SOPClassUID)]}
        sent = [each for each in self.objects if each.SOPInstanceUID not in self.withheld]
        yield len(sent)
        for code in self.answer:
            yield code, None
            return
        yield from ((0xFF00, each) for each in sent)


@contextmanager
def serving(fake: Fake, move: Callable[[evt.Event], object] | None = None) -> Iterator[Peer]:
    """Let a fake archive listen."""
    handlers: list[EventHandlerType] = [(evt.EVT_C_FIND, fake.find), (evt.EVT_C_MOVE, move or fake.move)]
    contexts = [build_context(FIND), build_context(MOVE)]
    with scp.serving(Listening("FAKE", port=0), contexts, handlers) as port:
        yield Peer("FAKE", "127.0.0.1", port)


def one_series(n_objects: int) -> list[Dataset]:
    """Objects of one series."""
    uids = generate_uid(), generate_uid()
    return [photograph(*uids) for _ in range(n_objects)]
