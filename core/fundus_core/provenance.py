"""What goes into every record of how a result was made: content of files, versions of packages."""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of installed packages, and of Python."""
    return {name: version(name) for name in packages} | {"python": platform.python_version()}
