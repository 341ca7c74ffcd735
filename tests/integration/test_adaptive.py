"""`score --adaptive`: fewer folds where the decision is plain, and the whole ensemble's answer where not."""

import importlib.util
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.docker.conftest import ADMIN_KEY
from tests.integration.conftest import Row, Score, Scored, run_score, wait_for
from tests.integration.live_server import Server, tritonserver
from tritonclient.grpc import InferenceServerClient

from fundus_core.adaptive import Adaptive
from fundus_core.ensemble import read_manifest, write_manifest
from fundus_core.repository import write_rendered
from fundus_core.serving import Serving
from fundus_export.cli import main
from fundus_export.server import KEY_HEADER


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_repository: Path) -> Iterator[Server]:
    """A server whose bundle knows of no margin yet."""
    if importlib.util.find_spec("pytriton") is None:
        pytest.skip("needs the extra `embedded`: the wheel's tritonserver")
    folder = tmp_path_factory.mktemp("adaptive")
    done = CliRunner().invoke(main, ["deploy", str(tiny_repository), str(folder / "live")])
    assert done.exit_code == 0, done.output
    with tritonserver(folder / "live", folder / "server") as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for photo in photos[:12]:
        shutil.copy(photo, folder)
    (folder / "text.jpg").write_text("no photograph")
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, server: Server, images: Path) -> Scored:
    return run_score(tmp_path_factory.mktemp("full"), images, "--url", server.address)


@pytest.fixture(scope="module")
def adaptive(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_repository: Path,
    server: Server,
    images: Path,
    full: Scored,
) -> Scored:
    """The same images asked adaptively, with a margin that half of them reach with their first fold."""
    parent = tmp_path_factory.mktemp("bundle")
    refused = run_score(parent, images, "--url", server.address, "--adaptive")
    assert refused.code == 1
    assert "Leave --adaptive out, or export the ensemble again." in refused.stderr
    threshold = read_manifest(tiny_repository).thresholds[0]
    distances = sorted(abs(logit(float(row["fold_0"])) - logit(threshold)) for row in scored(full))
    middle = len(distances) // 2
    knowing = with_margin(tiny_repository, parent / "knowing", sum(distances[middle - 1 : middle + 1]) / 2)
    server.tell("deploy", knowing)
    return run_score(tmp_path_factory.mktemp("adaptive"), images, "--url", server.address, "--adaptive")


def with_margin(repository: Path, folder: Path, margin: float) -> Path:
    shutil.copytree(repository, folder)
    spec = replace(read_manifest(folder), adaptive=Adaptive(margin, 1, 1, 1.0, 0.0, 1.0, ((),)))
    write_manifest(spec, folder)
    write_rendered(folder, spec, Serving())
    return folder


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def scored(done: Scored) -> list[Row]:
    return [row for row in done.rows if row["status"] == "scored"]


def without(row: Row, *columns: str) -> Row:
    return {name: cell for name, cell in row.items() if name not in columns}


def test_what_one_fold_decides_has_an_empty_cell_and_the_rest_the_whole_ensembles_answer(
    full: Scored, adaptive: Scored
) -> None:
    assert adaptive.code == 3, adaptive.stderr
    decided = [row for row in scored(adaptive) if not row["fold_1"]]
    assert len(decided) == len(scored(adaptive)) // 2
    for row in scored(adaptive):
        whole = full.row_of[row["image_id"]]
        if row in decided:
            assert (row["probability"], row["spread"]) == (whole["fold_0"], "")
            assert row["fold_0"] == whole["fold_0"]
        else:
            assert without(row, "bundle_digest") == without(whole, "bundle_digest")


def test_an_image_that_cannot_be_scored_has_the_ensembles_reason(full: Scored, adaptive: Scored) -> None:
    reasons = [done.row_of["text.jpg"]["reason"] for done in (full, adaptive)]
    assert reasons[0] == reasons[1]
    assert reasons[0].startswith("not_an_image: ")


def test_the_run_says_how_many_folds_it_asked(full: Scored, adaptive: Scored) -> None:
    records = [json.loads(done.output.with_name("run.json").read_text()) for done in (full, adaptive)]
    assert [record["folds_per_image"] for record in records] == [2.0, 1.5]
    assert [record["arguments"]["adaptive"] for record in records] == [False, True]
    assert "1.50 of 2 asked an image" in adaptive.stdout


def test_an_image_is_preprocessed_once_and_asks_no_fold_twice(
    adaptive: Scored, server: Server, images: Path, tmp_path: Path
) -> None:
    before = answered(server)
    run_score(tmp_path, images, "--url", server.address, "--adaptive")
    asked = answered(server) - before
    decided = sum(not row["fold_1"] for row in scored(adaptive))
    n_sent, n_scored = len(adaptive.rows), len(scored(adaptive))
    both = n_scored - decided
    assert asked == {
        "preprocess": n_sent,
        "fold_0": n_scored,
        "fold_1": both,
        "average": both,
        "adaptive": n_sent,
    }


def answered(server: Server) -> Counter[str]:
    """Return how many images each kind of model has answered."""
    kind, found = re.compile(r"fundus_(fold_\d+|[a-z]+)"), Counter[str]()
    with InferenceServerClient(server.address) as client:
        for model in client.get_inference_statistics(headers={KEY_HEADER: ADMIN_KEY}).model_stats:
            if match := kind.match(model.name):
                found[match[1]] += model.inference_count
    return found


def test_no_table_mixes_adaptive_and_full_answers(adaptive: Scored, server: Server, images: Path) -> None:
    folder, before = adaptive.output.parent, adaptive.output.read_bytes()
    refused = run_score(folder, images, "--url", server.address)
    assert refused.code == 2
    assert "holds adaptive answers. Go on with --adaptive" in refused.stderr
    again = run_score(folder, images, "--url", server.address, "--adaptive")
    assert again.code == 3
    assert again.output.read_bytes() == before


def test_a_report_is_not_made_of_some_folds(score: Score, images: Path, tmp_path: Path) -> None:
    done = score(images, "--adaptive", "--sr", tmp_path)
    assert done.code == 2
    assert "--sr and --adaptive exclude each other" in done.stderr


def test_a_server_that_does_not_serve_it_is_named(server: Server, images: Path, adaptive: Scored) -> None:
    (model,) = (path.name for path in server.live.glob("fundus_adaptive_*"))
    with InferenceServerClient(server.address) as admin:
        admin.unload_model(model, headers={KEY_HEADER: ADMIN_KEY})
        wait_for(lambda: not admin.is_model_ready(model))
    refused = run_score(adaptive.output.parent / "elsewhere", images, "--url", server.address, "--adaptive")
    assert refused.code == 1
    assert f"does not serve {model}. Start it with --load-model={model} too" in refused.stderr
