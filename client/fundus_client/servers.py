"""Which servers answer: those at `--url`, or an embedded one on a model repository."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fundus_client.embedded import EmbeddedServer, embedded_server
from fundus_client.member import Endpoint, Patience
from fundus_core.addresses import check_address
from fundus_core.ensemble import ENSEMBLE_MODEL
from fundus_core.errors import UsageError
from fundus_core.repository import check_repository
from fundus_core.tls import Tls


@dataclass(frozen=True)
class Servers:
    """Whom to ask: the servers at `urls`, or without any an embedded one on `repository`.

    With `adaptive` they ask no more folds of an image than its decision takes.
    """

    urls: Sequence[str]
    repository: Path | None
    tls: Tls | None
    patience: Patience
    model: str = ENSEMBLE_MODEL
    adaptive: bool = False

    def running(self) -> AbstractContextManager[list[Endpoint]]:
        """Return them as `scoring_servers`."""
        wait_s = self.patience.ready_s
        return scoring_servers(self.urls, self.repository, wait_s, self.tls, adaptive=self.adaptive)


@dataclass(frozen=True)
class RemoteEndpoint:
    """A server that somebody else keeps alive, at "host:port"."""

    url: str
    tls: Tls | None

    def __post_init__(self) -> None:
        check_address(self.url)

    def address(self, *, anew: bool) -> str:
        """Return "host:port"."""
        return self.url


@dataclass
class EmbeddedEndpoint:
    """A server of this process: it starts when its address is asked for, and again when it has ended."""

    repository: Path
    wait_s: float
    adaptive: bool = False
    tls: None = None
    _stack: ExitStack = field(default_factory=ExitStack)
    _server: EmbeddedServer | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def address(self, *, anew: bool) -> str:
        """Return "host:port" of the running server; with `anew` of one that was just started."""
        with self._lock:
            if anew or self._server is None or not self._server.is_alive():
                self._stack.close()
                running = embedded_server(
                    self.repository, adaptive=self.adaptive, ready_timeout_s=self.wait_s
                )
                self._server = self._stack.enter_context(running)
            return self._server.grpc_address

    def close(self) -> None:
        """End the server."""
        with self._lock:
            self._stack.close()


@contextmanager
def scoring_servers(
    urls: Sequence[str],
    repository: Path | None,
    wait_s: float,
    tls: Tls | None = None,
    *,
    adaptive: bool = False,
) -> Iterator[list[Endpoint]]:
    """Give the servers at `urls`, or without any an embedded one that runs until the block ends.

    Raises:
        UsageError: both are given, a url is not host:port, or `tls` is meant for the embedded one.
        BundleError: `repository` is no model repository of this project, or a file of it was changed.
        ServerError: the embedded server does not start.
    """
    if urls and repository:
        raise UsageError("--url and --repository exclude each other: a running server has its own.")
    if urls:
        yield [RemoteEndpoint(url, tls) for url in dict.fromkeys(urls)]
        return
    if tls:
        raise UsageError("--tls-ca needs --url: an embedded server answers this computer only, without TLS.")
    folder = repository or reference_repository()
    check_repository(folder)
    endpoint = EmbeddedEndpoint(folder, wait_s, adaptive)
    try:
        endpoint.address(anew=False)
        yield [endpoint]
    finally:
        endpoint.close()


def reference_repository() -> Path:
    """Return the folder of the reference ensemble: in the installed package, or in the source tree.

    Raises:
        UsageError: neither is there.
    """
    here = Path(__file__).resolve()
    for folder in (here.parent / "triton_models", here.parents[2] / "triton_models"):
        if folder.is_dir():
            return folder
    raise UsageError("The reference ensemble is not installed. Give --repository or --url.")
