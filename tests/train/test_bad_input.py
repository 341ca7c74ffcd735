"""What a user, or a machine, can get wrong: a sentence with the next step, an exit code, and nothing lost."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file
from tests.conftest import files_up_to
from tests.train.test_fit import contents, fit, recipe_file, rows, timeless

from fundus_core.errors import FundusError, UsageError
from fundus_train import results
from fundus_train.fit import resume_path
from fundus_train.guards import claimed, full_disk
from fundus_train.loop import Epoch

RECIPE = """
name = "bad input"
[preprocess]
size_px = 32
[network]
architecture = "test_efficientnet"
pretrained = false
[split]
test_size = 0.3
folds = 2
[training]
epochs = 2
batch_size = 8
"""
N = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """N small pictures of noise, and their labels.csv."""
    images = tmp_path_factory.mktemp("bad") / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(N):
        cv2.imwrite(str(images / f"{i}.png"), rng.integers(0, 256, (40, 40, 3), np.uint8))
    (images / "labels.csv").write_text(labels_text())
    return images


def labels_text(
    rows: Callable[[int], str] = lambda i: f"{i % 2},P{i}", header: str = "glaucoma,patient_id"
) -> str:
    return f"image_id,{header}\n" + "".join(f"{i}.png,{rows(i)}\n" for i in range(N))


@pytest.fixture
def attempt(folder: Path, tmp_path: Path) -> Callable[..., Result]:
    """Run `fundus-train fit` on the folder, with another recipe or labels table, into tmp_path / "run"."""

    def run(recipe: str = RECIPE, labels: str = "", *options: object) -> Result:
        data = folder / "labels.csv"
        if labels:
            data = tmp_path / "labels.csv"
            data.write_text(labels)
        inputs = ("--data", data, "--images", folder, "--output", tmp_path / "run", "--accelerator", "cpu")
        return fit(recipe_file(tmp_path, recipe), *inputs, *options)

    return run


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    place = tmp_path_factory.mktemp("undisturbed")
    inputs = ("--data", folder / "labels.csv", "--images", folder, "--accelerator", "cpu")
    assert fit(recipe_file(place, RECIPE), *inputs, "--output", place / "run").exit_code == 0
    return place / "run"


def refused(done: Result, exit_code: int, *sentences: str) -> None:
    """Check for one line on stderr with all the sentences, and nothing on stdout."""
    assert (done.exit_code, done.stdout) == (exit_code, ""), done.output
    assert isinstance(done.exception, SystemExit)
    (line,) = done.stderr.splitlines()
    for sentence in sentences:
        assert sentence in line


@pytest.mark.parametrize(
    ("labels", "sentences"),
    [
        (
            labels_text(lambda i: f"{2 if i == 7 else i % 2},P{i}"),
            ("line 9 has glaucoma = '2'", "Write 0, 1, or nothing"),
        ),
        (labels_text(header="amd,patient_id"), ("glaucoma",)),
        (
            labels_text(lambda i: f"0,P{i}"),
            ("The label 'glaucoma' has one class only in the test part", "Add cases of the rarer class"),
        ),
        (labels_text(lambda i: f"{i % 2},P{i % 6}"), ("6 patients cannot make 10 parts", "Add patients.")),
        (
            labels_text(lambda i: f",P{i}"),
            ("None of 40 labelled images can be used; the first, '", "0.png': unlabelled: "),
        ),
    ],
    ids=["label 2", "missing column", "one class", "few patients", "no labels"],
)
def test_a_labels_table_that_cannot_be_used(
    labels: str, sentences: tuple[str, ...], attempt: Callable[..., Result]
) -> None:
    refused(attempt(RECIPE, labels), 2, *sentences)


@pytest.mark.parametrize(
    ("mistake", "sentences"),
    [
        (("folds = 2", "folds = 30"), ("cannot make 30 folds", "Choose fewer")),
        (("epochs", "epoch"), ("unknown key 'epoch'", "Did you mean 'epochs'?")),
        (("test_efficientnet", "test_eficientnet"), ("Did you mean 'test_efficientnet'?",)),
        (("test_efficientnet", "test_efficientnet.r170_in1k"), ("Invalid pretrained tag (r170_in1k)",)),
        (("batch_size = 8", "batch_size = 64"), ("Lower batch_size",)),
    ],
)
def test_a_recipe_that_cannot_be_used_can_be_mended_in_place(
    mistake: tuple[str, str], sentences: tuple[str, ...], attempt: Callable[..., Result], tmp_path: Path
) -> None:
    refused(attempt(RECIPE.replace(*mistake)), 2, *sentences)
    refused(attempt(RECIPE.replace(*mistake)), 2, *sentences)
    mended = attempt(RECIPE.replace("epochs = 2", "epochs = 1"))
    assert mended.exit_code == 0, mended.output


def test_weights_of_another_network(attempt: Callable[..., Result], tmp_path: Path) -> None:
    save_file({"stem.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    pretrained = RECIPE.replace("pretrained = false", "pretrained = true")
    done = attempt(pretrained, "", "--weights", tmp_path / "other.safetensors")
    refused(done, 2, "'other.safetensors' is not for test_efficientnet")


def test_a_network_that_cannot_be_made_is_told_before_anything_is_decoded(
    attempt: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = RECIPE.replace("size_px = 32", "size_px = 34").replace("test_efficientnet", "test_vit")
    refused(attempt(recipe), 2, "'test_vit' cannot take 34 px images")
    assert not (tmp_path / "run" / "cache").exists()


def test_a_device_that_is_not_there(attempt: Callable[..., Result]) -> None:
    refused(attempt(RECIPE, "", "--accelerator", "abacus"), 2, "--accelerator abacus", "Choose others.")


def test_an_output_that_cannot_be_written(attempt: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    refused(attempt(), 2, "run' cannot be written", "Choose another --output.")


def test_unreadable_images_are_left_out_with_their_reason(
    folder: Path, attempt: Callable[..., Result], tmp_path: Path
) -> None:
    odd = "text.jpg,1,Q1\ngone.png,0,Q2\n"
    (folder / "text.jpg").write_text("no picture")
    done = attempt(RECIPE.replace("epochs = 2", "epochs = 1"), labels_text() + odd)
    assert done.exit_code == 0, done.output
    said = done.stderr.replace("\n", " ")
    assert "left out text.jpg: not_an_image: " in said
    assert "left out gone.png: vanished: " in said
    assert [row["image_id"] for row in rows(tmp_path / "run" / "dropped.csv")] == ["text.jpg", "gone.png"]
    assert len(rows(tmp_path / "run" / "split.csv")) == N


def test_images_that_change_under_a_begun_run_are_noticed(
    folder: Path, attempt: Callable[..., Result], tmp_path: Path
) -> None:
    """A case in another part would have been trained on and validated on."""
    assert attempt().exit_code == 0
    before = contents(tmp_path / "run")
    hidden = folder / "3.png"
    hidden.rename(tmp_path / "3.png")
    refused(attempt(), 2, "Images or their parts have changed", "such as 3.png", "Restore the images")
    cv2.imwrite(str(hidden), 255 - cv2.imread(str(tmp_path / "3.png")))
    refused(attempt(), 2, "Images or their parts have changed", "such as 3.png", "Restore the images")
    (tmp_path / "3.png").rename(hidden)
    assert attempt().exit_code == 0
    after = contents(tmp_path / "run")
    assert {name: after[name] for name in before if not name.startswith("cache")} == {
        name: before[name] for name in before if not name.startswith("cache")
    }


def test_the_same_run_cannot_be_started_twice(
    attempt: Callable[..., Result], tmp_path: Path, undisturbed: Path
) -> None:
    text = (undisturbed / "identity.json").read_text()
    with claimed(tmp_path / "run" / "identity.json", text):
        refused(attempt(), 2, "Another process is training in", "Wait until it has ended")
    assert attempt().exit_code == 0


def test_a_lock_lasts_as_long_as_a_child_has_it(tmp_path: Path) -> None:
    with claimed(tmp_path / "identity.json", "x") as lock:
        inherited = os.dup(lock)
    with pytest.raises(UsageError, match="Another process"), claimed(tmp_path / "identity.json", "x"):
        pass
    os.close(inherited)
    with claimed(tmp_path / "identity.json", "x"):
        pass


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_how_to_go_on_and_does_so(
    number: signal.Signals,
    exit_code: int,
    attempt: Callable[..., Result],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append, handler = results.append_epoch, signal.getsignal(number)

    def interrupted(run: Path, fold: int, epoch: Epoch) -> None:
        append(run, fold, epoch)
        if (fold, epoch.number) == (1, 2):  # written down, not yet saved
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(results, "append_epoch", interrupted)
        refused(
            attempt(), exit_code, "Every finished epoch is kept", "run the same command again; it resumes"
        )
    assert signal.getsignal(number) is handler
    assert resume_path(tmp_path / "run", 1).exists()
    assert attempt().exit_code == 0
    assert timeless(tmp_path / "run") == timeless(undisturbed)
    epochs = [(row["fold"], row["epoch"]) for row in rows(tmp_path / "run" / "epochs.csv")]
    assert epochs == [("0", "1"), ("0", "2"), ("1", "1"), ("1", "2")]


@pytest.mark.parametrize(
    ("n_bytes", "sentence"),
    [(50_000, "The cache of preprocessed images needs 123 kB."), (400_000, "Free: ")],
    ids=["cache", "checkpoint"],
)
def test_a_full_disk_loses_nothing(
    n_bytes: int, sentence: str, attempt: Callable[..., Result], undisturbed: Path, tmp_path: Path
) -> None:
    with files_up_to(n_bytes):
        refused(attempt(), 1, "The disk is full", sentence, "Make room, then run the same command again")
    assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix == ".partial"]
    assert attempt().exit_code == 0
    assert timeless(tmp_path / "run") == timeless(undisturbed)


def test_a_disk_that_fills_up_while_a_table_is_written(
    attempt: Callable[..., Result], undisturbed: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".oof.csv.partial").symlink_to("/dev/full")
    refused(attempt(), 1, "The disk is full (No space left on device)", "Make room")
    assert attempt().exit_code == 0
    assert timeless(tmp_path / "run") == timeless(undisturbed)


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), full_disk(tmp_path):
        (tmp_path / "nothing").read_text()
    with pytest.raises(FundusError, match=r"Free: .* in '/"), full_disk(tmp_path / "not" / "there"):
        raise OSError(28, "No space left on device")


def test_a_deterministic_run_is_one_and_puts_everything_back(
    attempt: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    was: list[bool] = []
    append = results.append_epoch

    def noting(run: Path, fold: int, epoch: object) -> None:
        was.append(torch.are_deterministic_algorithms_enabled())
        append(run, fold, epoch)  # type: ignore[arg-type]

    monkeypatch.setattr(results, "append_epoch", noting)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert attempt(RECIPE.replace("epochs = 2", "epochs = 1\ndeterministic = true")).exit_code == 0
    assert was == [True, True]
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_an_operation_without_a_deterministic_form_is_a_sentence(
    attempt: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def epoch(*_: object) -> None:
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)

    monkeypatch.setattr("fundus_train.loop.train_epoch", epoch)
    done = attempt(RECIPE + "deterministic = true\n")
    refused(done, 2, "cannot be trained deterministically", "Set deterministic = false")
