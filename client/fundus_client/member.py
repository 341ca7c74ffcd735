"""One server of a pool: where it is, what it carries now, and whether it is well."""

import asyncio
import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from fundus_client.scorer import Scorer
from fundus_client.window import Window
from fundus_core.errors import ImageError, ServerBusyError, ServerError, ServerUnreachableError
from fundus_core.phantoms import encode, plan, render
from fundus_core.tls import Tls

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0


class Endpoint(Protocol):
    """Where a server answers; `fundus_client.servers` has the two kinds."""

    @property
    def tls(self) -> Tls | None:
        """How to connect; None: without TLS."""
        ...

    def address(self, *, anew: bool) -> str:
        """Return "host:port"; a server of our own is started if it ended, and with `anew` in any case."""
        ...


@dataclass(frozen=True)
class Patience:
    """How long to wait, and how much to ask for at once."""

    answer_s: float = 120.0  # for one answer
    ready_s: float = 120.0  # for any server to be ready, at the start and during the run
    in_flight: int = 64  # images at most at each server


class SickError(ServerUnreachableError):
    """A server that says "ready" and does not answer a phantom."""


@dataclass
class Server:
    """One server of the pool: `scorer` is there while its connection is good."""

    endpoint: Endpoint
    window: Window
    scorer: Scorer | None = None
    carries: int = 0
    reserved: bool = False  # for an image that goes alone
    broken: asyncio.Event = field(default_factory=asyncio.Event)
    trouble: Exception | None = None
    given_up: bool = False  # another bundle, or no agreement on TLS: asking again won't help

    @property
    def has_room(self) -> bool:
        """Whether it takes one more image."""
        return self.scorer is not None and not self.reserved and self.carries < self.window.size

    def lose(self, trouble: Exception) -> None:
        """Send nothing more over this connection."""
        self.trouble, self.scorer = trouble, None
        self.broken.set()


async def probe(scorer: Scorer) -> None:
    """Ask a server that broke for a phantom before it gets images again.

    Raises:
        ServerError: it does not answer.
    """
    try:
        await scorer.score(_phantom(), "probe")
    except (ServerBusyError, ImageError):  # it is at work
        return
    except ServerError as error:
        raise SickError(f"The server says that it is ready, and does not answer: {error}") from None


@functools.cache
def _phantom() -> bytes:
    return encode(render(0).pixels, plan(0).camera)


def pauses() -> Iterator[float]:
    """Yield seconds to wait between attempts: doubling, with full jitter in their upper half."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s * random.uniform(0.5, 1.0)  # noqa: S311  no secret
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
