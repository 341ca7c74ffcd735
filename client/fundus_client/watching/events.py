"""What a watch does, one JSON object a line: for journald, or a file."""

import json
import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO


class EventLog(logging.Handler):
    """Writes events, and what our libraries log as warnings. A log that can't be written stops nothing."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(logging.WARNING)
        self._file = file

    def tell(self, event: str, **facts: object) -> None:
        """Write one event with those of its facts that are known."""
        known = {name: fact for name, fact in facts.items() if fact not in (None, "", {})}
        ts = datetime.now(UTC).isoformat(timespec="milliseconds")
        with suppress(OSError):
            self._file.write(json.dumps({"ts": ts, "event": event} | known) + "\n")
            self._file.flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a library's warning."""
        self.tell("warning", message=record.getMessage())
