"""What a source gives."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from fundus_client.sources import Ref, open_source
from fundus_core.errors import ImageError
from fundus_core.images import DEFAULT_LIMITS, ImageLimits

SECRET = "s3cr3t"  # noqa: S105 (of a server on loopback; no sentence may hold it)


def found(*inputs: str | Path) -> dict[str, Ref]:
    """Open a source and walk it once."""
    return {ref.image_id: ref for ref in open_source([str(each) for each in inputs], None)}


def contents(refs: Iterable[Ref]) -> dict[str, bytes]:
    """Read everything."""
    return {ref.image_id: ref.read(DEFAULT_LIMITS) for ref in refs}


def reason_of(ref: Ref, limits: ImageLimits = DEFAULT_LIMITS) -> str:
    """Read what cannot be read."""
    with pytest.raises(ImageError) as caught:
        ref.read(limits)
    assert SECRET not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    return caught.value.reason
