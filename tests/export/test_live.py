"""The files of a live repository; tests/integration/test_versions.py puts a server on it."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
from google.protobuf import text_format
from tests.bundles import content
from tests.certificates import OURS
from tests.conftest import bare_spec
from tests.export.bare import WEIGHTS, add_plan, bundle, run
from tritonclient.grpc import model_config_pb2 as triton

from fundus_core.adaptive import Adaptive
from fundus_core.ensemble import DIGEST_PARAMETER, ENSEMBLE_MODEL, LIVE, EnsembleSpec, write_manifest
from fundus_core.repository import write_rendered
from fundus_core.serving import Serving
from fundus_export.live import deploy, read_live
from fundus_export.server import Server


def config(folder: Path, name: str = "config.pbtxt") -> triton.ModelConfig:
    return text_format.Parse((folder / name).read_text(), triton.ModelConfig())


def served(live: Path) -> tuple[str, list[str]]:
    """Return the digest behind the entry, and the numbers of its version folders."""
    digest = config(live / ENSEMBLE_MODEL).parameters[DIGEST_PARAMETER].string_value
    return digest, [path.name for path in (live / ENSEMBLE_MODEL).iterdir() if path.name.isdigit()]


def test_the_entry_names_the_models_of_the_active_bundle_only(
    tmp_path: Path, specs: list[EnsembleSpec]
) -> None:
    live = tmp_path / "live"
    for number, spec in enumerate(specs[:2]):
        run("deploy", tmp_path / str(number), live)
        assert served(live) == (spec.digest, [str(number + 1)])
        active = read_live(live).active
        assert active
        suffix = active.removeprefix(ENSEMBLE_MODEL)
        for name in ("config.pbtxt", "configs/embedded.pbtxt"):
            for model in (ENSEMBLE_MODEL, active):
                found = config(live / model, name)
                assert found.name == model
                steps = [step.model_name for step in found.ensemble_scheduling.step]
                assert steps == [f"fundus_{x}{suffix}" for x in ("preprocess", "fold_0", "average")]
        assert (live / f"fundus_fold_0{suffix}/1/model.onnx").read_text() == f"weights {number}"
        assert config(live / f"fundus_fold_0{suffix}", "configs/tensorrt.pbtxt").name.endswith(suffix)


def test_a_model_folder_has_the_name_in_its_configs(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    for number in range(2):
        run("deploy", tmp_path / str(number), live)
    configs = list(live.rglob("*.pbtxt"))
    assert len(configs) == 2 * 9 + 2
    for path in configs:
        folder = path.relative_to(live).parts[0]
        assert config(path.parent, path.name).name == folder


def test_rollback_and_back_count_on(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    run("deploy", tmp_path / "0", live)
    assert "no bundle before the active one" in run("rollback", live, code=2).stderr
    run("deploy", tmp_path / "1", live)
    for deployment, spec in ((3, specs[0]), (4, specs[1])):
        said = run("rollback", live).stdout
        assert served(live) == (spec.digest, [str(deployment)])
        assert spec.digest in said.splitlines()[1]


def test_only_active_previous_and_canary_are_kept(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    for number in range(3):
        run("deploy", tmp_path / str(number), live)
    state = read_live(live)
    kept = {name.name for name in live.glob(f"{ENSEMBLE_MODEL}_*")}
    assert kept == {state.active, state.previous}
    assert len(list(live.glob("fundus_*"))) == 2 * 4 + 1
    run("deploy", tmp_path / "0", live, "--canary")
    assert len(list(live.glob("fundus_*"))) == 3 * 4 + 1
    run("rollback", live, "--canary")
    assert len(list(live.glob("fundus_*"))) == 2 * 4 + 1
    assert "no canary" in run("rollback", live, "--canary", code=2).stderr


def test_a_canary_leaves_the_entry_alone_until_it_is_deployed(
    tmp_path: Path, specs: list[EnsembleSpec]
) -> None:
    live = tmp_path / "live"
    assert "without --canary" in run("deploy", tmp_path / "1", live, "--canary", code=2).stderr
    run("deploy", tmp_path / "0", live)
    before = content(live / ENSEMBLE_MODEL)
    run("deploy", tmp_path / "1", live, "--canary")
    assert content(live / ENSEMBLE_MODEL) == before
    canary = read_live(live).canary
    assert canary
    assert config(live / canary).parameters[DIGEST_PARAMETER].string_value == specs[1].digest
    run("deploy", tmp_path / "1", live)
    state = read_live(live)
    assert (state.active, state.canary, state.deployment) == (canary, None, 2)
    assert served(live) == (specs[1].digest, ["2"])


def test_deploying_the_active_bundle_again_changes_nothing(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    for number in range(2):
        run("deploy", tmp_path / str(number), live)
    before = content(live)
    run("deploy", tmp_path / "1", live)
    assert content(live) == before


def test_other_settings_are_another_deployment(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    run("deploy", tmp_path / "0", live)
    bundle(tmp_path / "0", "0", Serving(fold_instances=3))
    run("deploy", tmp_path / "0", live)
    state = read_live(live)
    assert state.active != state.previous
    assert served(live) == (specs[0].digest, ["2"])


def test_terms_of_the_weights_go_with_them(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    (tmp_path / "0/NOTICE.md").write_text("For research only.")
    run("deploy", tmp_path / "0", live)
    assert (live / str(read_live(live).active) / "NOTICE.md").read_text() == "For research only."
    run("check", live)


@dataclass
class Told:
    """Stands for a running server: what it was told, in order."""

    said: list[tuple[str, str]] = field(default_factory=list)

    def load(self, model: str, digest: str) -> None:
        self.said.append(("load", model))

    def unload(self, model: str) -> None:
        self.said.append(("unload", model))


def test_a_server_loads_and_unloads_the_adaptive_model_with_its_bundle(
    tmp_path: Path, specs: list[EnsembleSpec]
) -> None:
    knowing = replace(specs[0], adaptive=Adaptive(0.7, 1, 1, 1.0, 0.0, 1.0, ((),)))
    knowing = replace(knowing, folds=bare_spec(2).folds)
    write_manifest(knowing, tmp_path / "0")
    write_rendered(tmp_path / "0", knowing, Serving())
    server, live = Told(), tmp_path / "live"
    for number in range(3):
        deploy(tmp_path / str(number), live, [cast(Server, server)])
    (adaptive,) = (model for said, model in server.said if said == "load" and "adaptive" in model)
    ensemble = adaptive.replace("adaptive", "ensemble")
    assert server.said[:2] == [("load", ensemble), ("load", adaptive)]
    assert {model for said, model in server.said if said == "unload"} == {ensemble, adaptive}
    assert not list(live.glob("fundus_adaptive*"))


def test_a_changed_bundle_is_refused_and_nothing_happens(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    run("deploy", tmp_path / "0", live)
    before = content(live)
    (tmp_path / "1" / WEIGHTS).write_text("other weights")
    assert f"{WEIGHTS} was changed" in run("deploy", tmp_path / "1", live, code=1).stderr
    assert content(live) == before


def test_a_bundle_is_no_live_repository(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    before = content(tmp_path)
    assert "is a bundle itself" in run("deploy", tmp_path / "0", tmp_path / "1", code=2).stderr
    assert "is no live repository" in run("rollback", tmp_path / "1", code=2).stderr
    assert content(tmp_path) == before


def test_what_an_interrupted_deployment_left_is_cleared(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    run("deploy", tmp_path / "0", live)
    before = content(live)
    for left in ("fundus_fold_0_0a1b2c3d/1/model.onnx", f"{ENSEMBLE_MODEL}/partial/fundus_x/1/model.onnx"):
        (live / left).parent.mkdir(parents=True)
        (live / left).touch()
    run("deploy", tmp_path / "0", live)
    assert content(live) == before


def test_a_read_only_bundle_with_plans_and_bytecode_is_copied(
    tmp_path: Path, specs: list[EnsembleSpec]
) -> None:
    fold = tmp_path / "0" / "fundus_fold_0" / "1"
    (fold / "__pycache__").mkdir()
    (fold / "__pycache__" / "model.pyc").write_text("compiled elsewhere")
    add_plan(fold.parent)
    for path in (tmp_path / "0").rglob("*"):
        path.chmod(path.stat().st_mode & ~0o222)
    run("deploy", tmp_path / "0", tmp_path / "live")
    for path in (tmp_path / "0").rglob("*"):
        path.chmod(path.stat().st_mode | 0o200)
    (copied,) = (tmp_path / "live").glob("fundus_fold_0_*/1")
    assert (copied / "model.plan").read_text() == "plan"
    assert (copied / "model.plan").stat().st_mode & copied.stat().st_mode & 0o200
    assert not (copied / "__pycache__").is_dir()  # a file: the server's own bytecode would be a change
    assert (copied / "__pycache__").exists()


@pytest.mark.parametrize("text", ["no json", json.dumps({"active": 7}), json.dumps({"aktive": "x"})])
def test_a_broken_record_is_a_sentence(text: str, tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    run("deploy", tmp_path / "0", live)
    (live / LIVE).write_text(text)
    assert LIVE in run("deploy", tmp_path / "1", live, code=1).stderr


def test_without_a_server_at_the_url_nothing_changes(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    done = run("deploy", tmp_path / "0", live, "--url", "127.0.0.1:1", code=4)
    assert "No answer from 127.0.0.1:1" in done.stderr
    assert not live.exists()


def test_a_bundle_whose_plan_was_changed_is_not_deployed(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    (tmp_path / "0/fundus_fold_0/1/model.plan").write_text("plan")
    done = run("deploy", tmp_path / "0", tmp_path / "live", code=1)
    assert "model.plan has no record of its build. Delete the plan" in done.stderr
    assert not (tmp_path / "live").exists()


@pytest.mark.parametrize("url", ["localhost", "http://localhost:8001", ""])
def test_an_address_that_is_none(url: str, tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    done = run("deploy", tmp_path / "0", tmp_path / "live", "--url", url, code=2)
    assert "Write host:port" in done.stderr
    assert not (tmp_path / "live").exists()


def test_a_live_repository_is_no_bundle(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    run("deploy", tmp_path / "0", live)
    lines = (("tensorrt", live), ("configs", live), ("verify", tmp_path, live), ("deploy", live, tmp_path))
    for told in lines:
        said = run(*told, code=1).stderr
        assert f"'{live}' is a live repository, not a bundle. Give a bundle that was deployed there" in said


def test_tls_is_for_a_server(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    (tmp_path / "ca.pem").write_bytes(OURS.cert_pem.bytes())
    done = run("deploy", tmp_path / "0", tmp_path / "live", "--tls-ca", tmp_path / "ca.pem", code=2)
    assert "--tls-ca needs --url" in done.stderr
    assert not (tmp_path / "live").exists()
