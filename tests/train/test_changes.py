"""`fundus-train table --against`: what each try changes of another."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fundus_eval.cli import main as fundus_eval
from fundus_train.cli import main as fundus_train
from fundus_train.recipe import Network, Recipe

SOURCES = ("east", "west")
N = 40  # images of each source, two of each patient


def run_folder(folder: Path, seed: int, sources: tuple[str, ...] = SOURCES) -> Path:
    """A run folder as `unseen` leaves it, with scores that chance and the label make."""
    folder.mkdir(parents=True)
    rng, found = np.random.default_rng(seed), []
    split = ["image_id,part,glaucoma,patient_id,source"]
    for part, source in enumerate(sources):
        lines = ["image_id,probability,fold_0"]
        for i in range(N):
            label, score = i // 2 % 2, rng.uniform(0, 0.7) + 0.3 * (i // 2 % 2)
            split.append(f"{source}/{i}.png,fold_{part},{label},{i // 2},{source}")
            lines.append(f"{source}/{i}.png,{score:.6g},{score:.6g}")
        (folder / f"{source}.csv").write_text("\n".join(lines) + "\n")
        auc = {"value": 0.5, "low": 0.4, "high": 0.6}
        found.append({"source": source, "n": N, "n_positive": N // 2, "auc": auc, "seed_auc": [0.5]})
    (folder / "split.csv").write_text("\n".join(split) + "\n")
    recipe = asdict(Recipe(folder.name, Network("efficientnet_b0")))
    (folder / "identity.json").write_text(json.dumps({"recipe": recipe, "labels_sha256": "5a"}))
    (folder / "unseen.json").write_text(json.dumps({"recipe": recipe, "seeds": [0], "sources": found}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs; the last one left out the east only."""
    for seed, name in enumerate(("a", "base")):
        run_folder(tmp_path / "runs" / name, seed)
    run_folder(tmp_path / "runs" / "c", 2, SOURCES[:1])
    return tmp_path / "runs"


def table(*arguments: object) -> Result:
    return CliRunner().invoke(fundus_train, ["table", *map(str, arguments)])


def test_the_changes_are_those_of_fundus_eval_compare_with_the_patients(runs: Path) -> None:
    done = table(runs, "--against", runs / "base")
    assert done.exit_code == 0, done.output
    first, base, last = csv.DictReader(io.StringIO(done.stdout))
    for source in SOURCES:
        tables = [runs / name / f"{source}.csv" for name in ("base", "a")]
        line = ["compare", *tables, runs / "base" / "split.csv", "--json"]
        (said,) = json.loads(CliRunner().invoke(fundus_eval, list(map(str, line))).stdout)
        assert said["n_patients"] == N // 2
        cells = [first[f"AUC change({source}){limit}"] for limit in ("", " low", " high")]
        assert cells == [f"{said['difference'][key]:+.4f}" for key in ("value", "low", "high")]
        assert base[f"AUC change({source})"] == ""
    assert last["AUC change(east)"]
    assert last["AUC change(west)"] == ""
    plain = csv.DictReader(io.StringIO(table(runs).stdout)).fieldnames
    assert plain == [name for name in first if "change" not in name]


def test_a_run_with_another_label_has_no_change_and_one_with_other_ids_is_named(runs: Path) -> None:
    for name in ("identity.json", "unseen.json"):
        said = json.loads((runs / "a" / name).read_text())
        said["recipe"]["labels"] = ["amd"]
        (runs / "a" / name).write_text(json.dumps(said))
    first, *_ = csv.DictReader(io.StringIO(table(runs, "--against", runs / "base").stdout))
    assert first["AUC change(east)"] == ""
    scores = (runs / "c" / "east.csv").read_text()
    (runs / "c" / "east.csv").write_text(scores.replace("east/", "elsewhere/"))
    done = table(runs, "--against", runs / "base")
    assert done.exit_code == 2
    assert f"'{runs / 'c'}' against '{runs / 'base'}': No image" in done.stderr.replace("\n", " ")


def test_what_is_no_run_to_compare_with_is_a_sentence(runs: Path) -> None:
    (runs / "c" / "unseen.json").unlink()
    for folder in (runs, runs / "c"):
        done = table(runs, "--against", folder)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "holds no finished run of `fundus-train unseen`" in done.stderr.replace("\n", " ")


def test_a_run_that_does_not_know_its_patients_says_how_to_mend_it(runs: Path) -> None:
    (runs / "base" / "split.csv").unlink()
    done = table(runs, "--against", runs / "base")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "has no split.csv: an earlier version made it. Run" in done.stderr.replace("\n", " ")
