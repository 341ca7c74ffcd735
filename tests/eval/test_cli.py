import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from fundus_core.tables import LabelTable, ScoreTable, join
from fundus_eval.cli import main
from fundus_eval.evaluation import evaluate

SCORES = """image_id,status,probability,fold_0,fold_1
a,scored,0.9,0.8,1
b,scored,0.2,0.1,0.3
c,scored,0.6,0.4,0.8
d,scored,0.4,0.5,0.3
e,failed,,,
f,scored,0.5,0.5,0.5
"""
LABELS = "image_id,glaucoma,amd\nd,0,1\nc,1,0\na,1,0\nb,0,1\nz,1,1\ne,1,1\n"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "scores.csv").write_text(SCORES)
    (tmp_path / "labels.csv").write_text(LABELS)

    def invoke(*options):
        return CliRunner().invoke(
            main, ["auc", str(tmp_path / "scores.csv"), str(tmp_path / "labels.csv"), *options]
        )

    return invoke


def test_json_says_everything(run):
    result = run("--threshold", "0.5", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    low = 0.025**0.5
    assert answer["auc"] == 1
    assert (answer["auc_low"], answer["auc_high"]) == (pytest.approx(low), 1)
    assert answer["fold_auc"] == [0.75, 1]
    assert (answer["n"], answer["n_positive"]) == (4, 2)
    counts = ("n_files", "n_scored", "n_failed", "n_unlabelled", "n_labels_without_image")
    assert [answer[name] for name in counts] == [6, 5, 1, 1, 1]
    assert (answer["threshold"], answer["sensitivity"], answer["specificity"]) == (0.5, 1, 1)
    assert answer["sensitivity_low"] == pytest.approx(answer["specificity_low"])
    assert answer["sensitivity_all"] == pytest.approx(2 / 3)  # the failed e is positive
    assert "specificity_all" not in answer
    assert (answer["unit"], answer["n_patients"]) == ("image", None)
    assert answer["auc_missing_reason"] is None
    assert "auc_macro" not in answer


def test_without_a_threshold_there_is_no_operating_point(run):
    assert not {"threshold", "sensitivity", "specificity"} & json.loads(run("--json").stdout).keys()
    assert "sensitivity" not in run().stdout


def test_the_table_reads_well(run):
    result = run("--threshold", "0.5")
    assert result.exit_code == 0
    assert [line.split(maxsplit=1) for line in result.stdout.splitlines()] == [
        ["glaucoma", "4 images, 2 positive"],
        ["patients", "not known: every image counts as independent"],
        ["AUC", "1.000 [0.158, 1.000]"],
        ["folds", "0.750 1.000"],
        ["threshold", "0.5"],
        ["sensitivity", "1.000 [0.342, 1.000]; 0.667 [0.208, 0.939] with failed files as wrong"],
        ["specificity", "1.000 [0.342, 1.000]"],
        ["files", "6: 1 failed, 1 without a label"],
        ["labels", "1 without an image"],
    ]


FLAGGED = SCORES.replace("status,", "status,ungradable,").replace("scored,", "scored,,")


def test_flagged_images_count_with_and_without(run, tmp_path):
    plain = json.loads(run("--json").stdout)
    assert "n_ungradable" not in plain
    labels = "image_id,glaucoma\na,1\nb,0\nc,0\nd,1\ne,1\n"
    (tmp_path / "labels.csv").write_text(labels)
    scores = FLAGGED.replace("failed,", "failed,,").replace("c,scored,", "c,scored,dark 0.02")
    (tmp_path / "scores.csv").write_text(scores.replace("f,scored,", "f,scored,grey 0.00"))  # f has no label
    answer = json.loads(run("--json").stdout)
    assert (answer["n"], answer["auc"]) == (4, 0.75)  # a and d against b and c: d is below c
    assert (answer["n_ungradable"], answer["auc_gradable"]) == (1, 1)
    assert answer["auc_gradable_low"] < answer["auc_gradable_high"] == 1
    (line,) = (line.split() for line in run().stdout.splitlines() if "gradable" in line)
    assert line[:2] == ["gradable", "1.000"]
    assert line[-3:] == ["without", "1", "ungradable"]


def test_one_class_among_the_gradable_is_said(run, tmp_path):
    flagged = FLAGGED.replace("b,scored,", "b,scored,dark 0.02").replace("d,scored,", "d,scored,dark 0.02")
    (tmp_path / "scores.csv").write_text(flagged.replace("failed,", "failed,,"))
    answer = json.loads(run("--json").stdout)
    assert (answer["auc"], answer["n_ungradable"], answer["auc_gradable"]) == (1, 2, None)
    assert "one class only without 2 ungradable" in run().stdout


def test_another_label_is_named(run):
    assert json.loads(run("--label", "amd", "--json").stdout)["auc"] == 0


def test_one_class_ends_with_2_and_a_sentence(run, tmp_path):
    (tmp_path / "labels.csv").write_text("image_id,glaucoma\na,1\nb,1\n")
    result = run()
    assert result.exit_code == 2
    assert (
        result.stderr
        == "Error: glaucoma: All 2 images are positive. Add negative images: the AUC needs both.\n"
    )


@pytest.mark.parametrize("options", [("--label", "dr"), ("--label", "glaucoma", "--label", "amd")])
def test_labels_that_do_not_fit_end_with_2(run, options):
    result = run(*options)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")


def test_a_missing_file_is_a_sentence():
    result = CliRunner().invoke(main, ["auc", "none.csv", "labels.csv"])
    assert result.exit_code == 2
    assert result.stderr == "Error: none.csv cannot be read: No such file or directory. Check the path.\n"


@pytest.mark.parametrize("arguments", [["--help"], ["auc", "--help"]])
def test_help_shows_an_example(arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert "\n    fundus-eval auc scores.csv labels.csv" in result.stdout


def three_labels(truth, ungradable=(False,) * 4):
    ids = tuple("abcd")
    probability = np.array([[0.1, 0.9, 0.5], [0.2, 0.1, 0.5], [0.8, 0.8, 0.5], [0.9, 0.2, 0.5]])
    labels = ("glaucoma", "amd", "dr")
    scores = ScoreTable(
        ids, np.ones(4, bool), probability, probability[:, None], np.array(ungradable), labels
    )
    return join(scores, LabelTable(ids, labels, np.array(truth, np.int8)))


def test_three_labels_are_evaluated_each_over_its_own_images():
    joined = three_labels([[0, 1, 0], [0, 0, 1], [1, -1, 0], [1, -1, 1]])
    answer = evaluate(joined, [0.5, 0.95, 0.5]).to_json()
    assert [label["label"] for label in answer["labels"]] == ["glaucoma", "amd", "dr"]
    assert [label["n"] for label in answer["labels"]] == [4, 2, 4]
    assert [label["auc"] for label in answer["labels"]] == [1, 1, 0.5]
    assert [label["sensitivity"] for label in answer["labels"]] == [1, 0, 1]
    assert answer["auc_macro"] == pytest.approx(2.5 / 3)
    assert answer["n_files"] == 4


def test_flagged_images_are_counted_for_the_labels_that_they_have():
    joined = three_labels([[0, 1, 0], [0, 0, 1], [1, -1, 0], [1, -1, 1]], [False, False, True, False])
    answer = evaluate(joined, None).to_json()
    assert [label.get("n_ungradable") for label in answer["labels"]] == [1, None, 1]


def test_a_label_with_one_class_has_a_reason_and_no_mean():
    answer = evaluate(three_labels([[0, 1, 0], [0, 0, 0], [1, 1, 0], [1, 0, -1]]), [0.5, 0.5, 0.5]).to_json()
    dr = answer["labels"][2]
    assert (dr["auc"], dr["auc_low"], dr["fold_auc"], dr["sensitivity"]) == (None, None, [], None)
    assert dr["specificity"] == 0
    assert dr["auc_missing_reason"].startswith("dr: All 3 images are negative.")
    assert answer["auc_macro"] is None
    json.dumps(answer, allow_nan=False)


def test_eval_is_light():
    heavy = ("torch", "pandas", "scipy", "sklearn", "matplotlib", "jinja2", "pyarrow", "grpc")
    program = f"import sys, fundus_eval.cli; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
