"""No answer of an archive gets lost between two threads of pynetdicom."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom", reason="an archive needs the extra `pacs`")

from pydicom import Dataset
from pynetdicom import AE
from tests.pacs.conftest import Orthanc, photograph, save

from fundus_client.pacs.gate import gated

SEARCH = "1.2.840.10008.5.1.4.1.2.2.1"
N_STUDIES = 4


def found(association: Any) -> int:
    """Count the studies that a search finds where both threads are slow at the wrong moments."""
    checkpoint = association._reactor_checkpoint
    wait = checkpoint.wait

    def slowly() -> None:
        wait()
        time.sleep(0.1)

    checkpoint.wait = slowly
    time.sleep(0.05)
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", ""
    count = 0
    for _, study in association.send_c_find(keys, SEARCH):
        count += study is not None
        time.sleep(0.1)
    return count


@pytest.fixture
def association(orthanc: Orthanc, tmp_path: Path) -> Iterator[Any]:
    orthanc.upload(save([photograph() for _ in range(N_STUDIES)], tmp_path))
    entity = AE("FUNDUS")
    entity.add_requested_context(SEARCH)
    made = entity.associate("127.0.0.1", orthanc.peer.port, ae_title=orthanc.peer.ae_title)
    assert made.is_established
    yield made
    made.abort()


def test_without_the_gate_answers_get_lost(association: Any) -> None:
    """Where this fails, pynetdicom is mended, and the gate can go."""
    assert found(association) < N_STUDIES


def test_with_the_gate_none_gets_lost(association: Any) -> None:
    assert found(gated(association)) == N_STUDIES
