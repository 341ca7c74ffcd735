"""What every answer of the real tritonserver says beside its score: the image's quality, and the bundle."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.conftest import succeed
from tests.integration.test_versions import cover_traces, tritonserver
from tritonclient.grpc import InferenceServerClient, InferInput

from fundus_client.embedded import EmbeddedServer
from fundus_core.ensemble import BUNDLE, ENSEMBLE_MODEL, IMAGE, PROBABILITY, QUALITY, read_manifest
from fundus_core.preprocess import see


@dataclass(frozen=True)
class Answer:
    """The answer to a request of B images."""

    quality: NDArray[np.float32]  # (B, Q)
    bundles: list[str]
    probability: list[float]


def ask(client: InferenceServerClient, images: Sequence[bytes], model: str = ENSEMBLE_MODEL) -> Answer:
    tensor = InferInput(IMAGE, [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object).reshape(-1, 1))
    answer = client.infer(model, [tensor], client_timeout=60)
    bundles = [name.decode() for name in answer.as_numpy(BUNDLE).reshape(-1)]
    return Answer(answer.as_numpy(QUALITY), bundles, answer.as_numpy(PROBABILITY).reshape(-1).tolist())


@pytest.fixture(scope="module")
def images(phantom_folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(phantom_folder.glob("*.jpg"))[:6]]


@pytest.fixture(scope="module")
def measured(images: list[bytes], tiny_repository: Path) -> NDArray[np.float32]:
    """The measures (6, Q) that core takes of the images."""
    spec = read_manifest(tiny_repository).preprocess
    return np.stack([see(data, spec)[1].vector for data in images])


def test_each_image_of_a_request_has_its_own_quality_and_the_bundle(
    server: EmbeddedServer, images: list[bytes], measured: NDArray[np.float32], tiny_repository: Path
) -> None:
    rows = [3, 0, 0, 5]
    with InferenceServerClient(server.grpc_address) as client:
        answer = ask(client, [images[row] for row in rows])
    np.testing.assert_array_equal(answer.quality, measured[rows])
    assert answer.bundles == [read_manifest(tiny_repository).digest] * 4
    assert answer.probability[1] == answer.probability[2]


def test_requests_that_share_a_batch_keep_their_own_quality(
    server: EmbeddedServer, images: list[bytes], measured: NDArray[np.float32]
) -> None:
    rows = [number % len(images) for number in range(24)]
    with InferenceServerClient(server.grpc_address) as client, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda row: ask(client, [images[row]]), rows))
    np.testing.assert_array_equal(np.concatenate([answer.quality for answer in answers]), measured[rows])


def test_the_entry_and_a_canary_name_the_bundle_that_answered(
    tiny_repository: Path, images: list[bytes], tmp_path: Path
) -> None:
    second = Path(shutil.copytree(tiny_repository, tmp_path / "second"))
    cover_traces(second, replace(read_manifest(second), version="2"))
    old, new = (read_manifest(each).digest for each in (tiny_repository, second))
    succeed("export", "deploy", tiny_repository, tmp_path / "live")
    with (
        tritonserver(tmp_path / "live", tmp_path) as running,
        InferenceServerClient(running.address) as client,
    ):
        running.tell("deploy", second, "--canary")
        canary = running.state.canary
        assert canary
        named = [ask(client, images[:2], model).bundles for model in (ENSEMBLE_MODEL, canary)]
        assert named == [[old, old], [new, new]]
        running.tell("deploy", second)
        assert ask(client, images[:1]).bundles == [new]
