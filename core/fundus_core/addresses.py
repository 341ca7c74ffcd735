"""How users write the address of a server."""

import re

from fundus_core.errors import UsageError


def check_address(url: str) -> None:
    """Refuse a --url that is not "host:port".

    Raises:
        UsageError: it is something else, such as a bare host or "http://…".
    """
    if not re.fullmatch(r"[^/\s]+:\d{1,5}", url):
        raise UsageError(f"--url is {url!r}. Write host:port of the server's gRPC, such as localhost:8001.")
