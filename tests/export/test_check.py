"""`fundus-export check` and `configs` on wrong folders, and the lines of docs/serving.md that sign."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.bundles import content
from tests.conftest import COMMANDS
from tests.export.bare import WEIGHTS, add_plan, bundle, run, suffix

from fundus_core.ensemble import ENSEMBLE_MODEL, EnsembleSpec
from fundus_core.serving import Serving

SERVING_MD = Path(__file__).resolve().parents[2] / "docs" / "serving.md"


@pytest.fixture
def spec(tmp_path: Path) -> EnsembleSpec:
    """The bundle in the folder model_repository."""
    return bundle(tmp_path / "model_repository", "1")


@pytest.fixture
def repository(spec: EnsembleSpec, tmp_path: Path) -> Path:
    return tmp_path / "model_repository"


def test_compiled_python_is_refused_with_what_to_do(repository: Path) -> None:
    """As a server leaves it behind that serves the folder itself."""
    compiled = repository / "fundus_preprocess/1/__pycache__"
    compiled.mkdir()
    (compiled / "model.cpython-311.pyc").write_text("code")
    done = run("check", repository, code=1)
    assert done.stdout == ""
    assert "fundus_preprocess/1/__pycache__ holds compiled Python. Delete the folders" in done.stderr
    shutil.rmtree(compiled)
    run("check", repository)


def test_a_place_that_cannot_be_deployed_to_is_a_sentence(repository: Path) -> None:
    done = run("deploy", repository, "/dev/null/x", code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("Error: '/dev/null/x': Not a directory. Mend that or give another path")


@pytest.mark.parametrize("name", [".serving.json.partial", "fundus_fold_0/.config.pbtxt.partial"])
def test_settings_that_cannot_be_written_stay_as_they_were(repository: Path, name: str) -> None:
    before = content(repository)
    (repository / name).mkdir()  # in the way
    done = run("configs", repository, "--set", "cores=2", code=2)
    assert done.stdout == ""
    assert f"'{repository / name}': Is a directory. Mend that or give another path" in done.stderr
    assert content(repository) == before
    (repository / name).rmdir()
    run("check", repository)


def test_a_check_says_what_was_deployed(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    bundle(tmp_path / "0", "0", Serving(fold_instances=3))
    said = [run("deploy", tmp_path / str(number), live).stdout for number in range(2)]
    assert run("check", live).stdout == said[-1]
    assert specs[0].digest in said[-1]


def spoil_weights(live: Path) -> None:
    (live / f"fundus_fold_0{suffix(live)}/1/model.onnx").write_text("other weights")


def spoil_config(live: Path) -> None:
    path = live / f"fundus_preprocess{suffix(live)}/config.pbtxt"
    path.write_text(path.read_text().replace("max_queue_size: 512", "max_queue_size: 0"))


def change_plan(live: Path) -> None:
    (live / f"fundus_fold_0{suffix(live)}/1/model.plan").write_text("another")


def exchange_plan(live: Path) -> None:
    fold = live / f"fundus_fold_0{suffix(live)}/1"
    (fold / "model.plan").write_text("another")
    record = {"plan_sha256": hashlib.sha256(b"another").hexdigest()}
    (fold / "model.plan.json").write_text(json.dumps(record))


def take_plan_away(live: Path) -> None:
    for path in live.glob("fundus_fold_0_*/1/model.plan*"):
        path.unlink()


def exchange_settings(live: Path) -> None:
    """Put the settings and configs of another deployment of the same weights in place of the first one's."""
    here = suffix(live)
    bundle(live.parent / "0", "0", Serving(fold_instances=3))
    run("deploy", live.parent / "0", live.parent / "other")
    there = suffix(live.parent / "other")
    for path in (live.parent / "other").glob(f"fundus_*{there}/**/*.*"):
        inner = path.relative_to(live.parent / "other").as_posix().replace(there, here)
        if path.suffix in (".pbtxt", ".json"):
            (live / inner).write_text(path.read_text().replace(there, here))
    for path in (live / f"fundus_ensemble{here}").rglob("*.pbtxt"):
        entry = live / ENSEMBLE_MODEL / path.relative_to(live / f"fundus_ensemble{here}")
        entry.write_text(path.read_text().replace(f'"fundus_ensemble{here}"', '"fundus_ensemble"'))


def put_compiled_python(live: Path) -> None:
    marker = live / f"fundus_preprocess{suffix(live)}/1/__pycache__"
    marker.unlink()
    marker.mkdir()
    (marker / "model.cpython-311.pyc").write_text("code")


def link_compiled_python(live: Path) -> None:
    marker = live / f"fundus_preprocess{suffix(live)}/1/__pycache__"
    marker.unlink()
    marker.symlink_to(live.parent)


def add_model(live: Path) -> None:
    (live / f"fundus_fold_0{suffix(live)}/2").mkdir()
    (live / f"fundus_fold_0{suffix(live)}/2/model.onnx").write_text("newer weights")


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights": (spoil_weights, "fundus_fold_0/1/model.onnx was changed. Deploy into a new folder."),
    "a config": (spoil_config, "fundus_preprocess/config.pbtxt was changed"),
    "a plan": (change_plan, "fundus_fold_0/1/model.plan was changed. Deploy into a new folder."),
    "a plan and its record": (exchange_plan, "a plan, the settings or the manifest was changed."),
    "no plan": (take_plan_away, "a plan, the settings or the manifest was changed."),
    "settings": (exchange_settings, "a plan, the settings or the manifest was changed."),
    "compiled Python": (
        put_compiled_python,
        "fundus_preprocess/1/__pycache__/model.cpython-311.pyc does not belong there",
    ),
    "a way to compiled Python": (link_compiled_python, "fundus_preprocess/1/__pycache__ is missing"),
    "something to compile": (
        lambda live: (live / f"fundus_average{suffix(live)}/1/__pycache__").write_text("code"),
        "fundus_average/1/__pycache__ was changed",
    ),
    "another version": (add_model, "fundus_fold_0/2/model.onnx does not belong there"),
    "no model": (
        lambda live: (live / f"fundus_average{suffix(live)}/config.pbtxt").unlink(),
        "fundus_average/config.pbtxt is missing",
    ),
    "no ensemble": (
        lambda live: (live / f"fundus_ensemble{suffix(live)}/config.pbtxt").unlink(),
        "config.pbtxt of '",
    ),
    "no config": (
        lambda live: (live / f"fundus_ensemble{suffix(live)}/config.pbtxt").write_text("no config"),
        "cannot be read (",
    ),
    "another entry": (
        lambda live: (live / "fundus_ensemble/config.pbtxt").write_text("no config"),
        "is not that of the active bundle. Deploy or roll back once more.",
    ),
    "a config of the entry": (
        lambda live: (live / "fundus_ensemble/configs/tensorrt.pbtxt").write_text("no config"),
        "is not that of the active bundle.",
    ),
    "a link of the entry to nothing": (
        lambda live: (live / "fundus_ensemble/configs/other.pbtxt").symlink_to("nowhere"),
        "is not that of the active bundle.",
    ),
    "another model": (lambda live: (live / "other/1").mkdir(parents=True), "other does not belong there"),
    "no entry": (
        lambda live: (live / "fundus_ensemble/configs/embedded.pbtxt").unlink(),
        "is not that of the active bundle.",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_check_refuses_what_was_not_deployed(what: str, tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    add_plan(tmp_path / "0" / "fundus_fold_0")
    run("deploy", tmp_path / "0", live)
    run("check", live)
    spoil, sentence = SPOILT[what]
    spoil(live)
    done = run("check", live, code=1)
    assert sentence in done.stderr
    assert done.stdout == ""


def test_a_plan_that_came_later_is_refused(tmp_path: Path, specs: list[EnsembleSpec]) -> None:
    live = tmp_path / "live"
    run("deploy", tmp_path / "0", live)
    add_plan(live / f"fundus_fold_0{suffix(live)}")
    assert "a plan, the settings or the manifest was changed" in run("check", live, code=1).stderr


@pytest.fixture
def signing(repository: Path, tmp_path: Path) -> list[str]:
    """The documented lines, and the keys that they take."""
    keygen = shutil.which("ssh-keygen")
    if not keygen:
        pytest.skip("needs ssh-keygen: openssh-client of Debian")
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    (tmp_path / "allowed_signers").write_text(f"maker {(tmp_path / 'key.pub').read_text()}")
    return re.findall(r"(?m)^\$ (.*ssh-keygen.*)$", SERVING_MD.read_text().replace("\\\n", " "))


def shell(line: str, folder: Path) -> int:
    path = f"{COMMANDS}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", line], cwd=folder, env={**os.environ, "PATH": path}, timeout=60)
    return done.returncode


def test_the_documented_lines_sign_and_verify(signing: list[str], tmp_path: Path) -> None:
    sign, verify = signing
    assert [shell(sign, tmp_path), shell(verify, tmp_path)] == [0, 0]
    bundle(tmp_path / "model_repository", "2")
    assert shell(verify, tmp_path) != 0, "another bundle"
    bundle(tmp_path / "model_repository", "1")
    assert shell(verify, tmp_path) == 0
    (tmp_path / "model_repository" / WEIGHTS).write_text("other weights")
    assert shell(verify, tmp_path) != 0, "a changed file"


def test_a_digest_of_another_signer_is_refused(signing: list[str], tmp_path: Path) -> None:
    sign, verify = signing
    assert shell(sign, tmp_path) == 0
    bundle(tmp_path / "model_repository", "2")
    assert shell("fundus-export check model_repository > digest.txt", tmp_path) == 0
    assert shell(verify, tmp_path) != 0


def test_what_does_not_pass_the_check_is_not_signed(signing: list[str], tmp_path: Path) -> None:
    (tmp_path / "model_repository" / WEIGHTS).write_text("other weights")
    assert shell(signing[0], tmp_path) != 0
    assert not (tmp_path / "digest.txt.sig").exists()
