import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.conftest import TINY_RECIPE, succeed
from tritonclient.grpc import model_config_pb2 as triton

from fundus_core.configs import render
from fundus_core.ensemble import EnsembleSpec, read_manifest
from fundus_core.errors import UsageError
from fundus_core.preprocess import preprocess_encoded
from fundus_core.repository import check_repository
from fundus_core.serving import Serving
from fundus_core.sheet import read_sheet
from fundus_export import trained
from fundus_export.cli import main
from fundus_export.trained import Wanted, ensemble_spec, load_run

COMMITTED = Path(__file__).parents[2] / "triton_models"


@pytest.fixture(params=["made now", "committed"])
def repository(request: pytest.FixtureRequest) -> Path:
    """The repository of the tiny run, then the one in `triton_models/`."""
    if request.param == "made now":
        return Path(request.getfixturevalue("tiny_repository"))
    if not (COMMITTED / "manifest.json").is_file():
        pytest.skip("triton_models/ holds no ensemble yet")
    return COMMITTED


def config_of(repository: Path, model: str, name: str = "config.pbtxt") -> triton.ModelConfig:
    return text_format.Parse((repository / model / name).read_text(), triton.ModelConfig())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_repository_passes_its_own_check(repository: Path) -> None:
    spec = check_repository(repository)
    paths = {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}
    assert {path for path in paths if path.endswith(".onnx")} < spec.files.keys()
    assert not paths & render(spec, Serving()).keys() & spec.files.keys()


def test_the_ensembles_config_carries_the_manifest_and_its_digest(repository: Path) -> None:
    parameters = config_of(repository, "fundus_ensemble").parameters
    spec = read_manifest(repository)
    assert EnsembleSpec.from_json(parameters["manifest"].string_value) == spec
    text = json.dumps(
        json.loads((repository / "manifest.json").read_text()), sort_keys=True, separators=(",", ":")
    )
    assert parameters["bundle_digest"].string_value == hashlib.sha256(text.encode()).hexdigest()


def test_every_config_is_a_triton_config_of_its_folder(repository: Path) -> None:
    paths = sorted(repository.rglob("*.pbtxt"))
    spec = read_manifest(repository)
    assert len(paths) == 5 + 4 * len(spec.folds) + bool(spec.adaptive)
    for path in paths:
        config = text_format.Parse(path.read_text(), triton.ModelConfig())
        model = path.relative_to(repository).parts[0]
        assert config.name == model
        assert config.max_batch_size > 1
        assert config.input
        assert config.output
        assert bool(config.platform) != bool(config.backend)
        assert (repository / model / "1").is_dir()


def test_the_ensembles_steps_join_tensors_of_the_same_type_and_shape(repository: Path) -> None:
    ensemble = config_of(repository, "fundus_ensemble")
    known = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        model = config_of(repository, step.model_name)
        for tensor in model.input:
            assert known[step.input_map[tensor.name]] == (tensor.data_type, list(tensor.dims))
        for tensor in model.output:
            known[step.output_map[tensor.name]] = (tensor.data_type, list(tensor.dims))
    for tensor in ensemble.output:
        assert known[tensor.name] == (tensor.data_type, list(tensor.dims))


def test_both_runtimes_serve_the_same_tensors_of_a_model(repository: Path) -> None:
    for path in sorted(repository.rglob("fundus_[af]*/configs/embedded.pbtxt")):
        served, embedded = (
            config_of(repository, path.parts[-3], name) for name in ("config.pbtxt", "configs/embedded.pbtxt")
        )
        assert (served.backend, embedded.backend) == ("onnxruntime", "python")
        assert list(served.input) == list(embedded.input)
        assert list(served.output) == list(embedded.output)
        assert (path.parents[1] / "1" / "model.py").is_file()
        assert (path.parents[1] / "1" / "model.onnx").is_file()


def test_the_graphs_have_the_tensors_of_their_configs(repository: Path) -> None:
    kinds = {"tensor(uint8)": triton.TYPE_UINT8, "tensor(float)": triton.TYPE_FP32}
    for path in sorted(repository.rglob("model.onnx")):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        config = config_of(repository, path.parts[-3])
        for tensors, promised in (
            (session.get_inputs(), config.input),
            (session.get_outputs(), config.output),
        ):
            found = {tensor.name: (kinds[tensor.type], tensor.shape[1:]) for tensor in tensors}
            assert found == {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in promised}
            assert all(isinstance(tensor.shape[0], str) for tensor in tensors)


def test_no_file_names_a_patient_or_a_path_of_the_machine(repository: Path, phantom_folder: Path) -> None:
    patients = [row["patient_id"].encode() for row in rows(phantom_folder / "labels.csv")]
    for path in repository.rglob("*"):
        if path.is_file() and path.suffix != ".pyc" and path.name != "labels.csv":  # of golden phantoms
            content = path.read_bytes()
            assert not [patient for patient in patients if patient in content], path
            assert b"site-packages" not in content, path
            assert str(COMMITTED.parent).encode() not in content, path


def test_thresholds_are_the_best_cut_of_the_out_of_fold_scores(tiny_repository: Path, tiny_run: Path) -> None:
    truth = {row["image_id"]: row["glaucoma"] == "1" for row in rows(tiny_run / "split.csv")}
    table = rows(tiny_run / "oof.csv")
    score = np.array([float(row["probability"]) for row in table])
    ill = np.array([truth[row["image_id"]] for row in table])

    def youden(threshold: float) -> float:
        return float((score[ill] >= threshold).mean() - (score[~ill] >= threshold).mean())

    (threshold,) = read_manifest(tiny_repository).thresholds
    assert youden(threshold) == pytest.approx(max(youden(cut) for cut in [*score, 1.1]))


def test_the_manifest_says_what_the_run_was(tiny_repository: Path, tiny_run: Path) -> None:
    spec, run = read_manifest(tiny_repository), json.loads((tiny_run / "run.json").read_text())
    assert (spec.name, spec.version, spec.labels) == ("tiny", "1", ("glaucoma",))
    assert spec.preprocess.size_px == 64
    assert spec.provenance["recipe"] == run["recipe"]
    assert spec.provenance["inner_test"] == run["inner_test"]
    assert [fold.architecture for fold in spec.folds] == ["test_efficientnet"] * 2


def test_the_exported_folds_give_the_scores_of_the_run(
    tiny_repository: Path, tiny_run: Path, phantom_folder: Path
) -> None:
    spec = read_manifest(tiny_repository)
    tested = rows(tiny_run / "inner_test.csv")
    files = [(phantom_folder / row["image_id"]).read_bytes() for row in tested]
    pixels = np.stack([preprocess_encoded(data, spec.preprocess) for data in files])
    for fold in range(2):
        path = tiny_repository / f"fundus_fold_{fold}" / "1" / "model.onnx"
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"pixels": pixels})
        expected = [float(row[f"fold_{fold}"]) for row in tested]
        assert np.abs(found[:, 0] - expected).max() < 1e-4


def refused(run: Path, out: Path, exit_code: int) -> str:
    """Return what `fundus-export repository` says to it."""
    done = CliRunner().invoke(main, ["repository", str(run), str(out)])
    assert (done.exit_code, done.stdout) == (exit_code, "")
    return done.stderr


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "is not empty. Choose a new folder, or delete it first." in refused(tiny_run, tmp_path / "out", 2)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]
    assert "is a file" in refused(tiny_run, tmp_path / "out" / "mine.txt", 2)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("run.json", "holds no finished training run. Run the same `fundus-train fit` command again"),
        ("fold_1.safetensors", "fold_1.safetensors' is no fold checkpoint"),
        ("cache", "has no cache of preprocessed images"),
    ],
)
def test_an_unfinished_run_is_refused_and_nothing_is_written(
    missing: str, sentence: str, tiny_run: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(tiny_run, run)
    shutil.rmtree(run / missing) if missing == "cache" else (run / missing).unlink()
    assert sentence in refused(run, out, 1)
    assert not out.exists()


def change_preprocessing(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the preprocessing that a fold's weights say they belong to."""
    path = run / "fold_1.safetensors"
    with safe_open(path, "pt") as file:
        spec = json.loads(file.metadata()["fundus_spec"])
    change(spec["recipe"]["preprocess"])
    save_file(load_file(path), path, {"fundus_spec": json.dumps(spec)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda told: told.update(margin_threshold=99), "come from different recipes. Train them again."),
        (lambda told: told.pop("revision"), "revision is 1"),  # of before there were revisions: other pixels
    ],
)
def test_folds_of_different_recipes_do_not_make_an_ensemble(
    change: Callable[[dict[str, Any]], object], sentence: str, tiny_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    change_preprocessing(run, change)
    assert sentence in refused(run, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_eight_labels_that_are_partly_unknown_make_an_ensemble_too(
    phantom_folder: Path, tmp_path: Path
) -> None:
    """The labels are those of ODIR; every fifth image has not been looked at for most of them."""
    labels = ("normal", "diabetes", "glaucoma", "cataract", "amd", "hypertension", "myopia", "other")
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", *labels])
        for i, row in enumerate(rows(phantom_folder / "labels.csv")):
            cells = [(i + k) % 2 if i % 5 or k < 2 else "" for k in range(len(labels))]
            writer.writerow([row["image_id"], *cells])
    recipe, run = tmp_path / "eight.toml", tmp_path / "run"
    names = ", ".join(f'"{label}"' for label in labels)
    recipe.write_text(f"labels = [{names}]\n{TINY_RECIPE.replace('count = 4', 'count = 0')}")
    data = ("--data", tmp_path / "labels.csv", "--images", phantom_folder)
    said = succeed("train", "fit", recipe, *data, "--output", run)
    assert all(f"{label}  AUC(CV)" in said for label in labels)
    (tmp_path / "terms.md").write_text("For research only.")
    succeed("export", "repository", run, tmp_path / "repository", "--terms", tmp_path / "terms.md")
    assert (tmp_path / "repository/NOTICE.md").read_text() == "For research only."
    spec = check_repository(tmp_path / "repository")
    assert spec.labels == labels
    assert len(spec.thresholds) == len(spec.folds[0].oof_auc) == len(labels)
    assert all(0 < threshold < 1 for threshold in spec.thresholds)


def test_many_photographs_of_the_inner_test_show_when_fewer_folds_are_enough(
    tmp_path: Path, tiny_run: Path
) -> None:
    """Of the real run, but with 400 further patients in the inner test on whom the folds agree."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    assert ensemble_spec(load_run(run), Wanted()).adaptive is None
    split, scores = (read_sheet(run / name, UsageError) for name in ("split.csv", "inner_test.csv"))
    for number in range(400):
        patient = {
            "image_id": f"{number}",
            "part": "test",
            "glaucoma": f"{number % 2}",
            "patient_id": f"p{number}",
        }
        share = "0.9" if number % 2 else "0.1"
        answer = dict.fromkeys(("probability", "fold_0", "fold_1"), share) | {"image_id": f"{number}"}
        for name, sheet, row in (("split.csv", split, patient), ("inner_test.csv", scores, answer)):
            with (run / name).open("a") as file:
                file.write(",".join(row.get(column, "") for column in sheet.columns) + "\n")
    adaptive = ensemble_spec(load_run(run), Wanted()).adaptive
    assert adaptive
    assert adaptive.n > 400
    assert adaptive.folds_per_image < 2


def test_a_round_of_pseudo_labels_shows_nothing_on_the_inner_test_that_it_was_trained_on(
    tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    judged: list[int] = []
    monkeypatch.setattr(trained, "fit_adaptive", lambda joined, _: judged.append(len(joined.image_id)))
    measured = [ensemble_spec(load_run(run), Wanted()).training[0].n]
    summary = json.loads((run / "run.json").read_text())
    summary["pseudo_labels"]["round"] = 1
    (run / "run.json").write_text(json.dumps(summary))
    measured.append(ensemble_spec(load_run(run), Wanted()).training[0].n)
    inner_test, out_of_fold = (len(rows(run / name)) for name in ("inner_test.csv", "oof.csv"))
    assert (judged, measured) == ([inner_test], [inner_test, out_of_fold])
