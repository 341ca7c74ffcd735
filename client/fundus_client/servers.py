"""Which server answers: the one at `--url`, or an embedded one on a model repository."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fundus_client.embedded import embedded_server
from fundus_client.tls import Tls
from fundus_core.errors import UsageError
from fundus_core.repository import check_repository


@contextmanager
def scoring_server(
    url: str | None, repository: Path | None, wait_s: float, tls: Tls | None = None
) -> Iterator[str]:
    """Give the gRPC address of the server at `url`, or of an embedded one that ends with the block.

    Raises:
        UsageError: both are given, `url` is not host:port, or `tls` is meant for the embedded one.
        BundleError: `repository` is no model repository of this project, or a file of it was changed.
    """
    if url is None and tls:
        raise UsageError("--tls-ca needs --url: an embedded server answers this computer only, without TLS.")
    if url is None:
        folder = repository or reference_repository()
        check_repository(folder)
        with embedded_server(folder, ready_timeout_s=wait_s) as server:
            yield server.grpc_address
        return
    if repository:
        raise UsageError("--url and --repository exclude each other: a running server has its own.")
    if not re.fullmatch(r"[^/\s]+:\d{1,5}", url):
        raise UsageError(f"--url is {url!r}. Write host:port of the server's gRPC, such as localhost:8001.")
    yield url


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
