"""Several bundles behind one real tritonserver: side by side, swapped under load, and rolled back."""

import asyncio
import importlib.util
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.bundles import changed_copy, cover_traces
from tests.conftest import command
from tests.integration.conftest import Score, flat, probabilities, scored_alone
from tests.integration.live_server import Answer, Load, Numbers, Server, ask, tritonserver
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from fundus_client.embedded import embedded_server
from fundus_client.scorer import connect
from fundus_core.ensemble import ENSEMBLE_MODEL, MODEL_ONNX, fold_model, read_manifest
from fundus_core.phantoms import write_samples
from fundus_export.cli import main
from fundus_export.server import KEY_HEADER


@dataclass(frozen=True)
class Bundle:
    """A model repository, and what it answers to each image when it is served alone."""

    folder: Path
    answers: list[Numbers]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("images")
    return [(folder / name).read_bytes() for name in write_samples(folder, 6, 77)]


@pytest.fixture(scope="module")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, tiny_repository: Path, images: list[bytes]
) -> list[Bundle]:
    """Three bundles of which no two agree in any number."""
    if importlib.util.find_spec("pytriton") is None:
        pytest.skip("needs the extra `embedded`: the wheel's tritonserver")
    parent, made = tmp_path_factory.mktemp("bundles"), []
    for number in range(3):
        folder = changed_copy(tiny_repository, parent / str(number), 3.0 + number, 0.9 - 0.1 * number)
        with embedded_server(folder) as server:
            made.append(Bundle(folder, [flat(each) for each in scored_alone(server.grpc_address, images)]))
    every = [[*numbers] for bundle in made for numbers in bundle.answers]
    assert len({each for numbers in every for each in numbers}) == 3 * len(images) * 3
    return made


@pytest.fixture
def server(tmp_path: Path, bundles: list[Bundle]) -> Iterator[Server]:
    """A server that serves the first bundle."""
    live = tmp_path / "live"
    done = CliRunner().invoke(main, ["deploy", str(bundles[0].folder), str(live)])
    assert done.exit_code == 0, done.output
    with tritonserver(live, tmp_path / "server") as running:
        yield running


def test_two_bundles_answer_side_by_side_each_as_it_does_alone(
    server: Server, bundles: list[Bundle], images: list[bytes]
) -> None:
    server.tell("deploy", bundles[1].folder, "--canary")
    canary = server.state.canary
    assert canary
    with InferenceServerClient(server.address) as client:
        for model, bundle in ((ENSEMBLE_MODEL, bundles[0]), (canary, bundles[1])):
            assert [ask(client, each, model).numbers for each in images] == bundle.answers
        server.tell("deploy", bundles[1].folder)
        assert [ask(client, each).numbers for each in images] == bundles[1].answers
    # Nothing but the entry was loaded for that.
    loaded = re.findall(r"loading: (\S+):\d", server.log.read_text())
    assert [name for name in loaded if loaded.count(name) > 1] == [ENSEMBLE_MODEL] * 2


def test_a_bundle_that_was_swapped_out_still_answers_by_its_own_name(
    server: Server, bundles: list[Bundle], images: list[bytes]
) -> None:
    first = server.state.active
    assert first
    with InferenceServerClient(server.address) as client:
        server.tell("deploy", bundles[1].folder)
        assert ask(client, images[0], first) == Answer(first, "1", bundles[0].answers[0])
        server.tell("deploy", bundles[2].folder)
        with pytest.raises(InferenceServerException, match=r"is not found|no available versions"):
            ask(client, images[0], first)
    assert server.ensembles() == {ENSEMBLE_MODEL, server.state.active, server.state.previous}


def test_the_client_stays_on_the_bundle_that_it_began_on(
    server: Server, bundles: list[Bundle], images: list[bytes]
) -> None:
    async def run() -> list[Numbers]:
        async with connect(server.address, ready_timeout_s=30, timeout_s=60) as begun:
            before = await begun.score(images[0], "before")
            await asyncio.to_thread(server.tell, "deploy", bundles[1].folder)
            return [flat(before), flat(await begun.score(images[0], "after"))]

    assert asyncio.run(run()) == [bundles[0].answers[0]] * 2
    assert [flat(each) for each in scored_alone(server.address, images)] == bundles[1].answers


def test_the_client_asks_a_canary_by_its_name(
    server: Server, bundles: list[Bundle], images: list[bytes], tmp_path: Path, score: Score
) -> None:
    server.tell("deploy", bundles[1].folder, "--canary")
    (tmp_path / "image.jpg").write_bytes(images[0])
    canary = ("--url", server.address, "--model", server.state.canary)
    (row,) = score(tmp_path / "image.jpg", *canary).rows
    assert row["bundle_digest"] == read_manifest(bundles[1].folder).digest
    assert probabilities(row) == pytest.approx(bundles[1].answers[0], abs=1e-6)


def test_a_canary_is_verified_by_its_name(server: Server, tiny_repository: Path) -> None:
    server.tell("deploy", tiny_repository, "--canary")
    line = ("verify", "--url", server.address, "--repository", tiny_repository)
    done = command("client", *line, "--model", server.state.canary)
    assert done.returncode == 0, done.stderr
    assert "PyTorch     max |dp|" in done.stdout
    active = command("client", *line)  # the first bundle
    assert "Give --repository, a copy of the bundle that the server serves." in active.stderr


@pytest.fixture
def broken(bundles: list[Bundle], tmp_path: Path) -> Path:
    """A bundle that passes every check, and that no server can load."""
    folder = Path(shutil.copytree(bundles[1].folder, tmp_path / "broken"))
    (folder / fold_model(0) / MODEL_ONNX).write_bytes(b"no graph")
    cover_traces(folder, read_manifest(folder))
    return folder


def test_a_bundle_that_cannot_be_loaded_changes_nothing(
    server: Server, bundles: list[Bundle], images: list[bytes], broken: Path
) -> None:
    before = server.state
    models = {path.name for path in server.live.iterdir()}
    said = server.tell("deploy", broken, code=1)
    assert "refuses" in said
    assert fold_model(0) in said
    assert server.state == before
    assert {path.name for path in server.live.iterdir()} == models
    assert server.ensembles() == {ENSEMBLE_MODEL, before.active}
    with InferenceServerClient(server.address) as client:
        assert ask(client, images[0]) == Answer(ENSEMBLE_MODEL, "1", bundles[0].answers[0])


def test_without_the_admin_key_nothing_is_swapped(server: Server, bundles: list[Bundle]) -> None:
    before = server.state
    done = CliRunner().invoke(
        main, ["deploy", str(bundles[1].folder), str(server.live), "--url", server.address]
    )
    assert done.exit_code == 1, done.output
    assert KEY_HEADER in done.stderr
    assert server.state == before


def test_a_server_that_starts_again_serves_what_it_served(
    server: Server, bundles: list[Bundle], images: list[bytes], tmp_path: Path
) -> None:
    server.tell("deploy", bundles[1].folder)
    server.tell("deploy", bundles[2].folder, "--canary")
    server.process.terminate()
    server.process.wait(60)
    state = server.state
    with (
        tritonserver(server.live, tmp_path / "server") as again,
        InferenceServerClient(again.address) as client,
    ):
        assert again.ensembles() == {ENSEMBLE_MODEL, state.active, state.previous, state.canary}
        assert ask(client, images[0]) == Answer(ENSEMBLE_MODEL, "2", bundles[1].answers[0])
        again.tell("rollback")
        assert ask(client, images[0]) == Answer(ENSEMBLE_MODEL, "3", bundles[0].answers[0])


def test_two_servers_load_a_bundle_before_the_first_one_swaps(
    server: Server, bundles: list[Bundle], images: list[bytes], broken: Path, tmp_path: Path
) -> None:
    with tritonserver(server.live, tmp_path / "other") as other:
        both = ("--url", other.address)
        server.tell("deploy", bundles[1].folder, *both)
        for each in (server, other):
            with InferenceServerClient(each.address) as client:
                assert ask(client, images[0]) == Answer(ENSEMBLE_MODEL, "2", bundles[1].answers[0])
        active = server.state.active
        loaded = [loads(each, active)[-1] for each in (server, other)]
        assert max(loaded) < min(loads(each, ENSEMBLE_MODEL)[-1] for each in (server, other))
        assert f"{other.address} refuses" in server.tell("deploy", broken, *both, code=1)
        assert server.ensembles() == other.ensembles() == {ENSEMBLE_MODEL, active, server.state.previous}


def loads(server: Server, model: str | None) -> list[str]:
    """When the server loaded a model, by its log."""
    return re.findall(rf"(?m)^I(\d{{4}} \S+) .*successfully loaded '{model}'", server.log.read_text())


def test_swaps_and_rollbacks_under_load_lose_nothing_and_mix_nothing(
    server: Server, bundles: list[Bundle], images: list[bytes]
) -> None:
    steps: list[tuple[tuple[object, ...], Bundle]] = [
        (("deploy", bundles[1].folder), bundles[1]),
        (("rollback",), bundles[0]),
        (("deploy", bundles[2].folder), bundles[2]),  # bundle 1 is unloaded
        (("deploy", bundles[1].folder), bundles[1]),
        (("rollback",), bundles[2]),
    ]
    made_by = {"1": bundles[0]} | {str(number): bundle for number, (_, bundle) in enumerate(steps, 2)}
    load = Load(server.address, images)
    with load.running():
        load.go_on()
        for number, (told, _) in enumerate(steps, 2):
            server.tell(*told)
            swapped = load.go_on()
            load.go_on()
            assert {answer.version for _, answer in load.answers[swapped:]} == {str(number)}
    assert load.lost == []
    for index, answer in load.answers:
        assert answer == Answer(ENSEMBLE_MODEL, answer.version, made_by[answer.version].answers[index])
    assert {answer.version for _, answer in load.answers} == made_by.keys()
