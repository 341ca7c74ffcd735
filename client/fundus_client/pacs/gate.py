"""A repair of pynetdicom 3.0: while we wait for an answer, nobody else may take it.

An association has a thread of its own that serves what the peer asks. Each operation is to stop it first, by
clearing an event and waiting for `_is_paused`; but the thread says so before it looks at the event, and may
just have passed it. Then it takes an answer out of the queue, finds that it is no request, and drops it: a
search misses a study, without an error. Of 25 searches for 250 studies in Orthanc, 5 missed some.
"""

import threading
import time

from pynetdicom.association import Association

_ROUND_S = 1.0  # more than a round of the thread takes, unless it serves a request


class _Gate:
    """Stands in for the event; `is_holding` only while the thread is held, and will be until `set`."""

    def __init__(self, association: Association) -> None:
        self._association, self._changed = association, threading.Condition()
        self._is_open, self.is_holding, self._n_rounds = True, False, 0

    def set(self) -> None:
        """Let the thread go on, and wait for a round: then `is_established` is true of now."""
        with self._changed:
            self._is_open, self.is_holding, before = True, False, self._n_rounds
            self._changed.notify_all()
            until_s = time.monotonic() + _ROUND_S
            while self._n_rounds == before and not self._is_over and time.monotonic() < until_s:
                self._changed.wait(0.001)

    def clear(self) -> None:
        with self._changed:
            self._is_open = False

    def wait(self) -> None:
        with self._changed:
            self._n_rounds += 1
            while not self._is_open:  # closed again before we woke up: held all the same
                self.is_holding = True
                self._changed.wait()

    @property
    def _is_over(self) -> bool:
        """Whether there will be no more rounds, or nobody but the thread itself to wait for them."""
        return self._association._kill or threading.current_thread() is self._association


class _Gated(Association):
    _reactor_checkpoint: _Gate  # type: ignore[assignment]

    @property
    def _is_paused(self) -> bool:
        return self._reactor_checkpoint.is_holding or self._kill

    @_is_paused.setter
    def _is_paused(self, value: bool) -> None:
        """Leave it to the gate."""


def gated(association: Association) -> Association:
    """Return the association, in which no answer can get lost, before its first operation."""
    association._reactor_checkpoint = _Gate(association)  # type: ignore[assignment]
    association.__class__ = _Gated
    return association
