"""The one exception tree; commands turn it into a sentence and an exit code (`fundus_core.console`).

    FundusError                 1   something fatal; the message says what to do next
    ├── UsageError              2   the command was called with something it cannot use
    │   ├── LabelsError         2   a labels table that cannot be joined
    │   ├── RecipeError         2   a training recipe with an unknown key or value
    │   └── MissingExtraError   2   an optional part that is not installed
    ├── ImageError              1   one file cannot be scored; becomes a row with a reason, never an abort
    ├── BundleError             1   a model repository that is incomplete or inconsistent
    ├── PacsError               1   an archive answered, but with an error
    │   └── PacsUnreachableError    4   no archive answered in time
    └── ServerError             1   the server answered, but with an error
        ├── ServerBusyError         1   its queue is full; the same request may be sent again
        ├── BreaksServerError       1   a server broke each time that it had this image
        └── ServerUnreachableError  4   no server answered in time
            └── ServerRefusedError  4   one that never will: client and server do not agree on TLS

Exit code 0 means everything worked; 3 means that some files have no score (no exception: it is a result),
and 75 (EX_TEMPFAIL) that an archive took too little for now: run the command again later.
"""

from typing import Literal, get_args

EXIT_SOME_FAILED = 3
EXIT_RETRY_LATER = 75

ImageReason = Literal[
    "empty",  # a file of 0 bytes
    "too_large",  # more bytes than ImageLimits.max_bytes
    "too_many_pixels",  # the header announces more pixels than ImageLimits.max_pixels; not decoded
    "not_an_image",  # no JPEG, PNG, TIFF, BMP or DICOM by content, whatever its name says
    "not_a_photograph",  # a DICOM object that says that it is none, such as OCT, an angiography, a report
    "corrupt",  # cut off, or so damaged that the decoder notices
    "unreadable",  # the file system refused to read it
    "vanished",  # listed at the start, gone when it was read
    "not_a_file",  # a directory, pipe, socket or device
]
IMAGE_REASONS: tuple[str, ...] = get_args(ImageReason)

ServerReason = Literal[
    "breaks_server",  # a server broke or fell silent each time that it had this image, at last alone
    "server_error",  # the server answered with an error that is not about the image
    "server_unreachable",  # not answered: no server was ready any more
]


class FundusError(Exception):
    """Anything this project raises on purpose. The message is a sentence with the next step."""

    exit_code = 1


class UsageError(FundusError):
    """The command was called with something it cannot use."""

    exit_code = 2


class LabelsError(UsageError):
    """A labels table that cannot be joined: missing column, duplicate id, value outside 0/1."""


class RecipeError(UsageError):
    """A training recipe with an unknown key or an impossible value."""


class MissingExtraError(UsageError):
    """An optional part of the distribution that is not installed."""

    def __init__(self, extra: str, missing: str) -> None:
        super().__init__(f"This needs {missing}. Install it with: pip install 'fundus-triton[{extra}]'")


class ImageError(FundusError):
    """One file cannot be scored. `reason` is one of `IMAGE_REASONS`."""

    def __init__(self, reason: ImageReason, message: str) -> None:
        super().__init__(message)
        self.reason: ImageReason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        """Survive the way to another process, where an error is made of its arguments."""
        return ImageError, (self.reason, str(self))


class BundleError(FundusError):
    """A model repository that is incomplete or inconsistent."""


class PacsError(FundusError):
    """An archive (PACS) answered, but with an error."""


class PacsUnreachableError(PacsError):
    """No archive answered in time."""

    exit_code = 4


class ServerError(FundusError):
    """The server answered, but with an error."""


class ServerBusyError(ServerError):
    """Its queue is full, or the request waited in it for too long; the server is well."""


class BreaksServerError(ServerError):
    """A server broke or fell silent each time that it had this image, at last alone."""


class ServerUnreachableError(ServerError):
    """No server answered in time."""

    exit_code = 4


class ServerRefusedError(ServerUnreachableError):
    """Client and server do not agree on TLS; asking again won't help."""
