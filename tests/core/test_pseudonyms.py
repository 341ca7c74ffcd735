"""Pseudonyms join what belongs together, and only for the holder of the key."""

import hashlib
import hmac
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fundus_core.errors import UsageError
from fundus_core.pseudonyms import Pseudonyms, pseudonymised, read_key
from fundus_core.tables import LabelTable, ScoreTable, join

KEY = bytes(range(32))
NAMES = Pseudonyms(KEY)


def test_a_pseudonym_is_a_truncated_hmac_of_the_id() -> None:
    expected = hmac.new(KEY, "fundus-triton image_id\0left/Müller.jpg".encode(), hashlib.sha256).hexdigest()
    assert NAMES.of("left/Müller.jpg") == expected[:32]
    expected = hmac.new(KEY, b"fundus-triton patient_id\x0017", hashlib.sha256).hexdigest()
    assert NAMES.of_patient("17") == expected[:32]


def test_a_pseudonym_stays_the_same_from_version_to_version() -> None:
    """Tables that were written earlier must go on to join."""
    assert NAMES.of("a.jpg") == "63e06905817a61f6805955c4ba26667c"


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_two_ids_share_no_pseudonym(one: str, other: str) -> None:
    assert (NAMES.of(one) == NAMES.of(other)) == (one == other)
    assert re.fullmatch("[0-9a-f]{32}", NAMES.of(one))


def test_file_names_that_are_no_utf8_have_pseudonyms() -> None:
    odd = b"M\xfcller.jpg".decode(errors="surrogateescape")
    assert len({NAMES.of(odd), NAMES.of("Müller.jpg"), NAMES.of("M?ller.jpg")}) == 3


def test_another_key_and_another_domain_give_other_pseudonyms() -> None:
    assert len({NAMES.of("7"), NAMES.of_patient("7"), Pseudonyms(KEY[::-1]).of("7")}) == 3


def test_an_unknown_patient_stays_unknown() -> None:
    """Else all of them would count as one patient."""
    assert NAMES.of_patient("") == ""


def test_the_key_is_not_shown() -> None:
    assert "x" * 8 not in repr(Pseudonyms(b"x" * 32))


def test_a_short_key_makes_no_pseudonyms() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes, this one 31"):
        Pseudonyms(bytes(31))


def key_file(folder: Path, content: bytes, mode: int) -> Path:
    path = folder / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(("content", "mode"), [(KEY, 0o600), (KEY + b"\n", 0o400), (bytes(100), 0o700)])
def test_a_key_is_every_byte_of_its_file(content: bytes, mode: int, tmp_path: Path) -> None:
    assert read_key(key_file(tmp_path, content, mode)) == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_a_key_that_others_can_use_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Others .* Close it with: chmod 600 "):
        read_key(key_file(tmp_path, KEY, mode))


@pytest.mark.parametrize("content", [b"", b"secret\n", KEY[1:]])
def test_a_short_key_is_refused_with_the_way_to_make_one(content: bytes, tmp_path: Path) -> None:
    path = key_file(tmp_path, content, 0o600)
    with pytest.raises(UsageError) as caught:
        read_key(path)
    assert f"has {len(content)} bytes; it needs at least 32" in str(caught.value)
    assert "head -c 32 /dev/urandom > key; chmod 600 key" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing", "."])
def test_no_file_is_no_key(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: .*Make a key with: head"):
        read_key(tmp_path / name)


LABELS = LabelTable(
    image_id=("a.jpg", "b.jpg", "c.jpg"),
    labels=("glaucoma",),
    values=np.array([[1], [0], [1]], np.int8),
    patient_id=("Müller", "Müller", ""),
    eye=("left", "right", ""),
    source=("clinic",) * 3,
)


def test_labels_join_scores_under_pseudonyms() -> None:
    hidden = pseudonymised(LABELS, NAMES)
    scores = ScoreTable(
        image_id=tuple(NAMES.of(image_id) for image_id in ("c.jpg", "a.jpg")),
        scored=np.ones(2, bool),
        probability=np.array([[0.9], [0.8]]),
        fold_probability=np.zeros((2, 0, 1)),
        ungradable=np.zeros(2, bool),
    )
    joined = join(scores, hidden)
    assert joined.truth.tolist() == [[1], [1]]
    assert hidden.patient_id == (*[NAMES.of_patient("Müller")] * 2, "")
    assert joined.row.tolist() == [2, 0]
    assert (hidden.eye, hidden.source, hidden.labels) == (LABELS.eye, LABELS.source, LABELS.labels)
    assert joined.table is hidden
    assert "Müller" not in repr(hidden)
    assert ".jpg" not in repr(hidden)


def test_labels_without_patients_stay_without() -> None:
    plain = LabelTable(("a",), ("glaucoma",), np.zeros((1, 1), np.int8))
    assert pseudonymised(plain, NAMES).patient_id is None
