import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from tests.bundles import cover_traces, scaled, squeezed, wrong_about_twins

from fundus_core.ensemble import MODEL_ONNX, PIXELS, fold_model, read_manifest
from fundus_core.repository import check_repository
from fundus_eval.parity import LIMITS
from fundus_export import repository as module
from fundus_export.cli import main
from fundus_export.pictures import calibration_pixels, held_out
from fundus_export.repository import Wanted, export_repository
from fundus_export.trained import load_run
from fundus_export.verify import ParityError


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def changed(repository: Path, change: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    """Change a fold's graph, and cover the traces."""
    path = repository / fold_model(1) / MODEL_ONNX
    onnx.save(change(onnx.load(path)), path)
    cover_traces(repository, read_manifest(repository))


def broken(stdout: str) -> list[tuple[str, str]]:
    """Which limits are broken, each behind what was compared on."""
    lines = [line for line in stdout.splitlines() if line.endswith("BROKEN")]
    return [(line[:12].strip(), line[12:24].strip()) for line in lines]


@pytest.fixture
def copy(tiny_repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_repository, tmp_path / "copy"))


def test_an_exported_repository_is_verified_with_its_figures(tiny_run: Path, tiny_repository: Path) -> None:
    done = run("verify", tiny_run, tiny_repository)
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["images"] * 6
    assert "BROKEN" not in done.stdout
    assert "limit 0.0001  ok" in done.stdout
    assert "flipped     0 of " in done.stdout
    assert "AUC change" not in done.stdout  # so few photographs cannot tell


def test_a_run_of_another_recipe_is_refused(tiny_run: Path, tiny_repository: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_run, tmp_path / "other"))
    said = json.loads((other / "run.json").read_text())
    said["recipe"]["seed"] += 1
    (other / "run.json").write_text(json.dumps(said))
    done = run("verify", other, tiny_repository)
    assert done.exit_code == 1
    assert f"was not exported from '{other}', whose recipe is another." in " ".join(done.output.split())


@pytest.mark.parametrize("factor", [1.5, 0.0, np.nan])
def test_a_graph_with_another_weight_breaks_the_limits(
    factor: float, tiny_run: Path, copy: Path, phantom_folder: Path
) -> None:
    changed(copy, lambda graph: scaled(graph, 1.0))
    assert run("verify", tiny_run, copy).exit_code == 0
    changed(copy, lambda graph: scaled(graph, factor))
    done = run("verify", tiny_run, copy)
    assert done.exit_code == 1, done.output
    assert next(line for line in done.stdout.splitlines() if "max |dp|" in line).endswith("BROKEN")


def test_own_images_and_their_labels_are_compared_too(
    tiny_run: Path, tiny_repository: Path, phantom_folder: Path
) -> None:
    own = ("--images", phantom_folder, "--labels", phantom_folder / "labels.csv")
    count = int(run("verify", tiny_run, tiny_repository).stdout.splitlines()[0].split()[-1])
    said = run("verify", tiny_run, tiny_repository, *own).stdout
    assert int(said.splitlines()[0].split()[-1]) == count + 48
    assert "AUC change  +0.0000 [+0.0000, +0.0000]" in said


@pytest.mark.parametrize("command", ["verify", "repository"])
def test_labels_without_images_are_refused(
    command: str, tiny_run: Path, tiny_repository: Path, phantom_folder: Path, tmp_path: Path
) -> None:
    target = tiny_repository if command == "verify" else tmp_path / "out"
    done = run(command, tiny_run, target, "--labels", phantom_folder / "labels.csv")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--labels says what is true of --images. Give both, or neither." in done.stderr


def test_a_graph_that_tells_a_picture_from_its_twin_in_a_batch_is_noticed(tiny_run: Path, copy: Path) -> None:
    changed(copy, wrong_about_twins)
    done = run("verify", tiny_run, copy)
    assert done.exit_code == 1, done.output
    assert broken(done.stdout) == [("images", "repeats")]


def test_int8_graphs_that_answer_otherwise_than_at_export_are_noticed(
    tiny_run: Path, int8_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "int8", replace(LIMITS["int8"], auc_fall=1.0))
    copy = Path(shutil.copytree(int8_repository, tmp_path / "copy"))
    done = run("verify", tiny_run, copy)
    assert (done.exit_code, broken(done.stdout)) == (0, []), done.output
    of = [line[:24].split()[0] for line in done.stdout.splitlines() if "AUC change" in line]
    assert of == ["inner"]  # test; never the golden phantoms
    changed(copy, lambda graph: squeezed(graph, 0.9, 0.0))
    done = run("verify", tiny_run, copy)
    assert done.exit_code == 1, done.output
    assert ("recorded", "max |dp|") in broken(done.stdout)
    assert {name for name, _ in broken(done.stdout)} == {"recorded"}


def test_own_images_that_are_none_and_labels_of_others_are_refused_before_any_work(
    tiny_run: Path, tmp_path: Path, phantom_folder: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "others.csv").write_text("image_id,glaucoma\nother.jpg,1\n")
    for own, sentence in (
        (("--images", tmp_path / "empty"), "holds no image. Check the path."),
        (
            ("--images", phantom_folder, "--labels", tmp_path / "others.csv"),
            "--labels knows none of --images, such as ",
        ),
    ):
        done = run("repository", tiny_run, tmp_path / "out", *own)
        assert done.exit_code == 2, done.output
        assert sentence in " ".join(done.stderr.split())
        assert "fold 0" not in done.output, "refused before a graph is made"
        assert not (tmp_path / "out").exists()


def test_an_image_of_ones_own_that_cannot_be_read_is_named(
    tiny_run: Path, tiny_repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    done = run("verify", tiny_run, tiny_repository, "--images", tmp_path)
    assert done.exit_code == 1
    assert "torn.jpg" in done.stderr
    assert "Take it out of the folder." in done.stderr


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_are_exported_within_their_limits(
    precision: str, tiny_run: Path, tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A dozen phantoms and two hardly trained folds: an AUC on them means nothing.
    monkeypatch.setitem(LIMITS, "int8", replace(LIMITS["int8"], auc_fall=1.0))
    out = tmp_path / "out"
    done = run("repository", tiny_run, out, "--precision", precision)
    assert done.exit_code == 0, done.output
    spec = check_repository(out)
    assert spec.precision == precision
    assert spec.digest != read_manifest(tiny_repository).digest
    assert f"precision   {precision}" in done.stderr
    assert ("inner test" in done.stderr) == (precision == "int8")  # its AUC is judged there


def test_graphs_that_break_a_limit_are_not_exported(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = module.fold_graph
    monkeypatch.setattr(module, "fold_graph", lambda *arguments: scaled(graph(*arguments), 30))
    with pytest.raises(ParityError, match=r"(?s)do not answer as PyTorch does.*max \|dp\|.*BROKEN"):
        export_repository(tiny_run, tmp_path / "out", Wanted(), lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_calibration_sees_no_held_out_photograph(tiny_run: Path) -> None:
    recipe = load_run(tiny_run).recipe
    tested = held_out(tiny_run, recipe, 99).pictures.pixels
    calibrated = calibration_pixels(tiny_run, recipe, 99)
    assert len(tested) + len(calibrated) == 48
    assert not {each.tobytes() for each in tested} & {each.tobytes() for each in calibrated}
    assert tested.shape[1:] == calibrated.shape[1:] == (64, 64, 3)


def test_held_out_photographs_come_with_their_own_answers(tiny_run: Path, tiny_repository: Path) -> None:
    judged = held_out(tiny_run, load_run(tiny_run).recipe, 5)
    path = tiny_repository / fold_model(0) / MODEL_ONNX
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {PIXELS: judged.pictures.pixels})
    assert np.abs(found - judged.recorded.folds[:, 0]).max() < 1e-4


def test_check_prints_the_digest_or_names_what_was_changed(copy: Path) -> None:
    done = run("check", copy)
    assert done.exit_code == 0
    assert read_manifest(copy).digest in done.stdout
    (copy / fold_model(0) / MODEL_ONNX).write_bytes(b"other weights")
    done = run("check", copy)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "fundus_fold_0/1/model.onnx was changed" in done.stderr


def test_settings_are_rendered_kept_and_change_no_digest(copy: Path) -> None:
    before = read_manifest(copy).digest
    done = run("configs", copy, "--set", "cores=8", "--set", "preferred_batches=[2, 8]")
    assert done.exit_code == 0, done.output
    assert check_repository(copy).digest == before
    assert "count: 4" in (copy / "fundus_fold_0" / "config.pbtxt").read_text()
    again = run("configs", copy)
    assert again.stdout == done.stdout
    assert "preferred_batches     [2, 8]" in done.stdout


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("cors=8", "Did you mean 'cores'"),
        ("cores", "is no setting. Write KEY=VALUE"),
        ("cores=x", "is no setting"),
    ],
)
def test_a_wrong_setting_changes_nothing(setting: str, sentence: str, copy: Path) -> None:
    done = run("configs", copy, "--set", setting)
    assert done.exit_code == 2
    assert sentence in done.stderr
    check_repository(copy)
