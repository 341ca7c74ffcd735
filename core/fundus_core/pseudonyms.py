"""Keyed pseudonyms: ids that only the holder of a key can join with the names behind them.

A pseudonym is no more than its key: whoever has that can try all names, so it stays with the photographs.
"""

import hmac
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from fundus_core.errors import UsageError
from fundus_core.tables import LabelTable

KEY_BYTES = 32
HEX_DIGITS = 32  # 128 bits: among 100 million ids, the odds that any two share a pseudonym are 1.5e-23

_IMAGE = b"fundus-triton image_id\0"
_PATIENT = b"fundus-triton patient_id\0"
_UID = b"fundus-triton uid\0"


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Pseudonyms under one key: HMAC-SHA-256 (RFC 2104), truncated to `HEX_DIGITS`.

    The same text has different pseudonyms as an image and as a patient, so that neither tells the other.
    """

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) < KEY_BYTES:
            raise ValueError(f"a key has at least {KEY_BYTES} bytes, this one {len(self.key)}")

    def of(self, image_id: str) -> str:
        """Return the pseudonym of an image: 32 hex digits."""
        return self._digest(_IMAGE, image_id)

    def of_patient(self, patient_id: str) -> str:
        """Return the pseudonym of a patient: 32 hex digits, or "" for "", who is not known."""
        return patient_id and self._digest(_PATIENT, patient_id)

    def of_uid(self, uid: str) -> str:
        """Return the pseudonym of a DICOM UID, itself a UID (PS3.5 B.2), or "" for ""."""
        return uid and f"2.25.{int(self._digest(_UID, uid), 16)}"

    def _digest(self, domain: bytes, text: str) -> str:
        message = domain + text.encode(errors="surrogateescape")
        return hmac.digest(self.key, message, "sha256").hex()[:HEX_DIGITS]


def read_key(path: Path) -> bytes:
    """Return the bytes of a key file.

    Raises:
        UsageError: it cannot be read, can be used by others than its owner, or is too short.
    """
    advice = f"Make a key with: head -c {KEY_BYTES} /dev/urandom > key; chmod 600 key"
    try:
        with path.open("rb") as file:
            is_open_to_others = os.fstat(file.fileno()).st_mode & 0o077
            key = b"" if is_open_to_others else file.read()
    except OSError as error:
        raise UsageError(f"The key file {path} cannot be read: {error.strerror}. {advice}") from error
    if is_open_to_others:
        raise UsageError(
            f"Others than its owner can use the key file {path}. Close it with: chmod 600 {path}"
        )
    if len(key) < KEY_BYTES:
        raise UsageError(f"The key file {path} has {len(key)} bytes; it needs at least {KEY_BYTES}. {advice}")
    return key


def pseudonymised(labels: LabelTable, pseudonyms: Pseudonyms) -> LabelTable:
    """Return the labels under pseudonyms of their images and patients, to be joined with such scores."""
    return replace(
        labels,
        image_id=tuple(map(pseudonyms.of, labels.image_id)),
        patient_id=labels.patient_id and tuple(map(pseudonyms.of_patient, labels.patient_id)),
    )
