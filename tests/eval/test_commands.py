"""`fundus-eval auc`, `compare` and `report` on tables as `fundus-client score` writes them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.conftest import bare_spec

from fundus_core.calibrator import Calibrator
from fundus_core.ensemble import CutOff, EnsembleSpec, write_manifest
from fundus_core.quality import MEASURES, Quality
from fundus_core.reading import read_scores
from fundus_core.rows import ScoreFormat, ScoreRow, score_writer
from fundus_eval.cli import main
from fundus_eval.shift import distributions

N = 120
SPEC = replace(
    bare_spec(2),
    thresholds=(0.4,),
    cut_offs=(CutOff("youden", (0.4,)), CutOff("specificity 0.95", (0.7,))),
    calibrators=(Calibrator("temperature", temperature=1.5),),
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def write_scores(path: Path, spec: EnsembleSpec, seed: int = 0, size_px: float = 1890) -> None:
    """A score of each of N images, every tenth of them failed; the images of odd number have the disease."""
    rng = np.random.default_rng(seed)
    form = ScoreFormat(spec.labels, spec.thresholds, 2, spec.digest)
    with score_writer(path, form) as write:
        for i in range(N):
            if i % 10 == 0:
                write(ScoreRow(f"{i}.jpg", "", "failed", "corrupt: It is cut off.", None, None))
                continue
            p = float(1 / (1 + np.exp(-rng.normal(2.4 * (i % 2) - 1.2, 1))))
            quality = Quality(0.02 if i == 5 else 0.8, size_px + i, 0.95, 0.5, 0.9, rng.uniform(2, 6))
            row = ScoreRow(f"{i}.jpg", "ab" * 32, "scored", "", (p,), ((p,), (p,)), quality)
            write(row)
    (path.parent / "run.json").write_text(json.dumps({"manifest": json.loads(spec.to_json())}))


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """scores.csv with run.json beside it, and labels.csv; two images of each patient, one of each eye."""
    write_scores(tmp_path / "scores.csv", SPEC)
    eyes = ("left", "left", "right", "right")
    rows = (f"{i}.jpg,{i % 2},P{i // 4},{eyes[i % 4]},{40 + i // 4},{'ab'[i % 3 > 0]}" for i in range(N - 1))
    header = "image_id,glaucoma,patient_id,eye,age,camera"
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows, "gone.jpg,1,PX,left,50,a"]) + "\n")
    return tmp_path / "scores.csv", tmp_path / "labels.csv"


def test_auc_decides_at_the_threshold_of_the_bundle_that_run_json_names(tables: tuple[Path, Path]) -> None:
    found = json.loads(run("auc", *tables, "--json").stdout)
    assert (found["threshold"], found["n"], found["n_patients"]) == (0.4, 107, 30)
    assert "sensitivity_all" not in found
    assert found["specificity_all"] < found["specificity"]  # every failed file is negative
    assert json.loads(run("auc", *tables, "--threshold", 0.9, "--json").stdout)["threshold"] == 0.9


def test_the_only_label_may_have_another_name_in_the_labels_table(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    scores, labels = tables
    labels.write_text(labels.read_text().replace("glaucoma", "referable", 1))
    found = json.loads(run("auc", *tables, "--label", "referable", "--json").stdout)
    assert (found["threshold"], found["n"]) == (0.4, 107)
    page = tmp_path / "report.html"
    line = ("report", *tables, "--label", "referable", "--output", page, "--resamples", 100)
    assert run(*line).exit_code == 0
    assert run("compare", scores, *tables, "--label", "referable").exit_code == 0


def test_a_table_of_any_name_has_a_record_of_its_own(tables: tuple[Path, Path]) -> None:
    scores, labels = tables
    other = scores.rename(scores.with_name("monday.csv"))
    scores.with_name("run.json").rename(scores.with_name("monday.csv.run.json"))
    assert json.loads(run("auc", other, labels, "--json").stdout)["threshold"] == 0.4


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            json.dumps({"manifest": json.loads(replace(SPEC, version="2").to_json())}),
            "belongs to other scores",
        ),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (None, "is missing"),
    ],
)
def test_without_the_manifest_of_the_scores_there_is_no_threshold_and_a_warning(
    content: str | None, why: str, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tables[0].parent / "run.json"
    path.unlink() if content is None else path.write_text(content)
    done = run("auc", *tables, "--json")
    assert "threshold" not in json.loads(done.stdout)
    assert f"Warning: run.json beside scores.csv {why}: thresholds, calibrators" in done.stderr
    assert "Give --bundle" in done.stderr
    page = tmp_path / "report.html"
    assert run("report", *tables, "--output", page, "--resamples", 100).exit_code == 0
    assert f"run.json beside scores.csv {why}" in page.read_text()


def test_the_repository_must_be_the_one_that_made_the_scores(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    for version, exit_code in (("1", 0), ("2", 1)):
        repository = tmp_path / version
        repository.mkdir()
        write_manifest(replace(SPEC, version=version), repository)
        done = run("auc", *tables, "--bundle", repository)
        assert done.exit_code == exit_code, done.output
    assert f"was made by the bundle {SPEC.digest[:12]}, not by no model 2" in done.stderr


def test_photographs_unlike_the_training_are_warned_of(tables: tuple[Path, Path]) -> None:
    known = distributions(read_scores(tables[0]), SPEC.labels)
    spec = replace(SPEC, training=known)
    write_scores(tables[0], spec, seed=1)
    assert "Warning" not in run("auc", *tables).stderr
    write_scores(tables[0], spec, seed=1, size_px=400)
    assert (
        "Warning: These photographs differ from those of the training in field_px"
        in run("auc", *tables).stderr
    )


@pytest.mark.parametrize(("unit", "n"), [("image", 107), ("eye", 60), ("patient", 30)])
def test_units(unit: str, n: int, tables: tuple[Path, Path]) -> None:
    if unit != "image":  # where both images of an eye must say the same
        rows = (f"{i}.jpg,{i // 4 % 2},P{i // 4},{('left', 'right')[i // 2 % 2]}" for i in range(N))
        tables[1].write_text("\n".join(["image_id,glaucoma,patient_id,eye", *rows]) + "\n")
    found = json.loads(run("auc", *tables, "--unit", unit, "--rule", "max", "--json").stdout)
    assert (found["unit"], found["n"]) == (unit, n)


def test_compare_takes_each_tables_threshold_and_says_what_moved(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_scores(other / "scores.csv", replace(SPEC, version="2", thresholds=(0.5,), cut_offs=()), seed=7)
    (found,) = json.loads(run("compare", tables[0], other / "scores.csv", tables[1], "--json").stdout)
    assert found["decisions"]["thresholds"] == [0.4, 0.5]
    assert 0 <= found["p_value"] <= 1
    assert found["n_patients"] == 30
    assert "sensitivity" in run("compare", tables[0], other / "scores.csv", tables[1]).stdout
    (tables[0].parent / "run.json").unlink()
    (found,) = json.loads(run("compare", tables[0], other / "scores.csv", tables[1], "--json").stdout)
    assert found["decisions"] is None


@pytest.fixture
def report(tables: tuple[Path, Path], tmp_path: Path) -> Callable[..., tuple[str, dict[str, object]]]:
    def make(*options: object) -> tuple[str, dict[str, object]]:
        page, numbers = tmp_path / "report.html", tmp_path / "report.json"
        files = ("--output", page, "--json", numbers)
        done = run("report", *tables, *files, "--resamples", 200, *options)
        assert done.exit_code == 0, done.output
        assert done.stdout == f"report  {page}\n"
        return page.read_text(), json.loads(numbers.read_text())

    return make


def test_a_report_holds_the_numbers_of_the_other_commands(
    report: Callable[..., tuple[str, dict[str, object]]], tables: tuple[Path, Path], tmp_path: Path
) -> None:
    page, numbers = report("--subgroup", "camera", "--subgroup", "age", "--figures", tmp_path / "figures")
    quick = json.loads(run("auc", *tables, "--json").stdout)
    (label,) = numbers["labels"]  # type: ignore[misc]
    assert list(label["auc"].values()) == [quick["auc"], quick["auc_low"], quick["auc_high"]]
    assert [(each["rule"], each["threshold"]) for each in label["decisions"]] == [
        ("youden", 0.4),
        ("specificity 0.95", 0.7),
    ]
    assert label["decisions"][0]["sensitivity"]["value"] == quick["sensitivity"]
    assert label["calibrated"]["brier"] != label["calibration"]["brier"]
    assert {each["column"] for each in label["subgroups"]} == {"camera", "age"}
    assert numbers["flow"] == {
        "n_files": N,
        "failed": {"corrupt": 12},
        "n_scored": 108,
        "n_unlabelled": 1,
        "n_labels_without_image": 1,
        "n_failed_positive": 0,
        "n_failed_negative": 12,
        "n_evaluated": 107,
        "n_ungradable": 1,
        "n_units": 107,
    }
    assert numbers["made"]["bundle"]["digest"] == SPEC.digest  # type: ignore[index]
    assert str(tmp_path) not in page
    assert "P12" not in page  # a patient
    assert "0.jpg" not in page or "data:image/jpeg" not in page
    assert len(list((tmp_path / "figures").glob("*.svg"))) >= 6


def test_a_report_is_the_same_for_the_same_seed_and_another_for_another(
    report: Callable[..., tuple[str, dict[str, object]]],
) -> None:
    first, second, other = (report("--seed", seed)[1]["labels"] for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_a_report_of_plain_scores_needs_no_bundle(tmp_path: Path) -> None:
    rows = [(i, f"0.{i}", int(i % 3 == 0)) for i in range(1, 10)]
    (tmp_path / "s.csv").write_text("image_id,probability\n" + "".join(f"{i},{p}\n" for i, p, _ in rows))
    (tmp_path / "l.csv").write_text("image_id,glaucoma\n" + "".join(f"{i},{t}\n" for i, _, t in rows))
    page = tmp_path / "report.html"
    done = run("report", tmp_path / "s.csv", tmp_path / "l.csv", "--output", page, "--resamples", 100)
    assert done.exit_code == 0, done.output
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("scores", "labels", "sentence"),
    [
        ("a,0.5\nb,1.5\nc,2\nd,nan\ne,-1\n", "a,1\nb,0\n", "(4 such rows). Write a number of 0-1."),
        ("a,0.5\na,0.5\n", "a,1\n", "lines 2 and 3 both have image_id 'a'"),
        ("a,0.5\nb,0.5\n", "x,1\ny,0\nz,1\nw,0\n", "the labels have 4 ids such as 'x', 'y', 'z'"),
        ("a,0.5\nb,0.6\n", "a,1\nb,1\n", "All 2 images are positive"),
        ("a,0.5\nb,0.6\n", "a,1\nb,2\n", "line 3 has glaucoma = '2'"),
        ("", "a,1\n", "the table is empty"),
        ("a,0.5\n,\n,\n", "a,1\n,\n", "All 1 images are positive"),
    ],
)
@pytest.mark.parametrize("command", ["auc", "report"])
def test_what_cannot_be_evaluated_is_a_sentence_with_the_count(
    command: str, scores: str, labels: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "s.csv").write_text("image_id,probability\n" + scores)
    (tmp_path / "l.csv").write_text("image_id,glaucoma\n" + labels)
    done = run(command, tmp_path / "s.csv", tmp_path / "l.csv")
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: ")
    assert sentence in done.stderr


def test_a_report_that_cannot_be_written_is_a_sentence(tables: tuple[Path, Path], tmp_path: Path) -> None:
    done = run("report", *tables, "--resamples", 100, "--output", tmp_path / "none" / "report.html")
    assert done.exit_code == 2
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize(
    "files",
    [
        ("--output", "scores.csv"),
        ("--output", "../scores/scores.csv"),
        ("--json", "labels.csv"),
        ("--output", "run.json"),
        ("--output", "x", "--json", "x"),
    ],
)
def test_a_report_writes_over_nothing_that_it_reads(
    files: tuple[str, ...], tables: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tables[0].parent
    monkeypatch.chdir(folder)
    (folder.parent / "scores").unlink(missing_ok=True)
    (folder.parent / "scores").symlink_to(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = run("report", *tables, "--resamples", 100, *files)
    assert done.exit_code == 2
    assert "is one of the tables, or written twice" in done.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("option", ["--label", "--subgroup"])
def test_no_patient_is_named_by_a_command(option: str, tables: tuple[Path, Path], tmp_path: Path) -> None:
    done = run("report", *tables, option, "patient_id", "--output", tmp_path / "r.html")
    assert done.exit_code == 2
    assert "patient_id names people" in done.stderr
    assert "P1" not in done.output


@pytest.mark.parametrize(
    "options", [("--threshold", "nan"), ("--prevalence", "nan"), ("--seed", "-1"), ("--prevalence", "1")]
)
def test_a_number_that_is_none_is_refused(options: tuple[str, str], tables: tuple[Path, Path]) -> None:
    assert run("report", *tables, *options).exit_code == 2


def test_thumbnails_are_of_the_most_wrong_and_missing_ones_are_said(
    report: Callable[..., tuple[str, dict[str, object]]], tables: tuple[Path, Path], tmp_path: Path
) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    done = run("report", *tables, "--resamples", 100, "--output", tmp_path / "r", "--thumbnails", photographs)
    assert f"Warning: none of the most wrong images is in '{photographs}'" in done.stderr
    (label,) = report()[1]["labels"]  # type: ignore[misc]
    for case in label["cases"][:20]:
        cv2.imwrite(str(photographs / case["image_id"]), np.full((300, 300, 3), 90, np.uint8))
    page, _ = report("--thumbnails", photographs)
    assert page.count("data:image/jpeg") == 12
    assert "These are photographs of patients." in page


def test_every_measure_reaches_the_table(tables: tuple[Path, Path]) -> None:
    quality = read_scores(tables[0]).quality
    assert quality is not None
    assert (~np.isnan(quality)).sum() == len(MEASURES) * 108
