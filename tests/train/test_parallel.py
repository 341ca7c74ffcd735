import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import COMMANDS
from tests.train.test_fit import fit, recipe_file, rows, timeless

from fundus_train import pseudo
from fundus_train.fit import Experiment
from fundus_train.parallel import FoldError, Workers, visible_gpus
from fundus_train.recipe import Network, Recipe, Training

CORES = len(os.sched_getaffinity(0))

# What a fold's process does here instead of training: notes when it ran, where and with which GPUs.
FOLD = """
import json, os, sys, time
from pathlib import Path
from typing import Any
folder, (only, number, fold) = Path(sys.argv[1]), sys.argv[2:]
assert (only, number) == ("--only", "3")
began = time.time()
plan = (folder / "plan").read_text() if (folder / "plan").exists() else "pass"
exec(plan)
time.sleep(0.4)
said = [began, time.time(), os.environ.get("CUDA_VISIBLE_DEVICES", ""), len(os.sched_getaffinity(0))]
(folder / fold).write_text(json.dumps(said))
"""


@pytest.fixture
def workers(tmp_path: Path) -> Callable[..., Workers]:
    """Workers whose folds run FOLD in `tmp_path`."""

    def make(count: int, devices: int = 1, gpus: tuple[str, ...] = ()) -> Workers:
        line = (sys.executable, "-c", FOLD, str(tmp_path))
        return Workers(line, count, devices, gpus, lock=os.open(tmp_path, os.O_RDONLY))

    return make


def noted(folder: Path) -> dict[int, list[object]]:
    return {int(path.name): json.loads(path.read_text()) for path in folder.glob("[0-9]")}


def test_as_many_folds_as_wanted_run_at_once(workers: Callable[..., Workers], tmp_path: Path) -> None:
    looks = []
    workers(2).train(3, range(5), lambda: looks.append(time.time()))
    spans = [(began, ended) for began, ended, *_ in noted(tmp_path).values()]
    assert len(spans) == 5
    at_once = [sum(began <= moment <= ended for began, ended in spans) for moment, _ in spans]
    assert max(at_once) == 2
    assert len(looks) > 2


def test_each_process_has_its_own_gpus_and_its_share_of_the_cores(
    workers: Callable[..., Workers], tmp_path: Path
) -> None:
    before = os.sched_getaffinity(0)
    workers(2, 2, ("4", "5", "6", "7")).train(3, range(2), lambda: None)
    assert sorted(each[2] for each in noted(tmp_path).values()) == ["4,5", "6,7"]
    assert {each[3] for each in noted(tmp_path).values()} <= {max(1, CORES // 2), -(-CORES // 2)}
    assert os.sched_getaffinity(0) == before


def test_one_fold_has_all_cores_however_many_are_allowed_at_once(
    workers: Callable[..., Workers], tmp_path: Path
) -> None:
    workers(8).train(3, [1], lambda: None)
    assert [each[3] for each in noted(tmp_path).values()] == [CORES]


def test_folds_share_gpus_where_there_are_fewer(workers: Callable[..., Workers], tmp_path: Path) -> None:
    workers(3, 1, ("0", "1")).train(3, range(3), lambda: None)
    assert sorted(each[2] for each in noted(tmp_path).values()) == ["0", "0", "1"]


def test_only_the_gpus_that_this_process_sees_are_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-77")
    assert visible_gpus(2) == ("2", "GPU-77")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus(2) == ("0", "1")


@pytest.mark.parametrize(
    ("plan", "exit_code", "sentence"),
    [
        (
            "if fold == '1': sys.exit(print('noise\\nError: Lower batch_size.', file=sys.stderr) or 2)",
            2,
            "Lower",
        ),
        (
            "if fold == '1': raise ValueError('odd')",
            1,
            r"code 1 \(ValueError: odd\)\. Run the same command again",
        ),
        ("if fold == '1': os.kill(os.getpid(), 9)", 1, r"code -9 \(it said nothing\)\. Run the same"),
    ],
    ids=["sentence", "traceback", "killed"],
)
def test_a_fold_that_fails_says_why_and_the_others_finish(
    plan: str, exit_code: int, sentence: str, workers: Callable[..., Workers], tmp_path: Path
) -> None:
    (tmp_path / "plan").write_text(plan)
    with pytest.raises(FoldError, match=f"Fold 1: .*{sentence}") as caught:
        workers(2).train(3, range(4), lambda: None)
    assert caught.value.exit_code == exit_code
    assert sorted(noted(tmp_path)) == [0, 2, 3]


def test_an_interrupt_ends_the_processes_and_what_they_started(
    workers: Callable[..., Workers], tmp_path: Path
) -> None:
    (tmp_path / "plan").write_text(
        "import subprocess; child = subprocess.Popen(['sleep', '60']); (folder / f'{fold}.pid').write_text("
        "f'{os.getpid()} {child.pid}'); time.sleep(60)"
    )

    def interrupt() -> None:
        if len(list(tmp_path.glob("*.pid"))) == 2 and all(p.read_text() for p in tmp_path.glob("*.pid")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workers(2).train(3, range(2), interrupt)
    pids = [int(pid) for path in tmp_path.glob("*.pid") for pid in path.read_text().split()]
    assert len(pids) == 4
    deadline = time.monotonic() + 30
    while any(map(running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(running, pids))


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_folds_in_parallel_stop_and_resume_to_the_weights_of_one_after_the_other(
    tmp_path: Path, phantom_folder: Path, one_thread: None
) -> None:
    recipe = recipe_file(tmp_path)
    inputs = ["--data", phantom_folder / "labels.csv", "--images", phantom_folder, "--accelerator", "cpu"]
    assert fit(recipe, *inputs, "--output", tmp_path / "plain").exit_code == 0
    arguments = [recipe, *inputs, "--output", tmp_path / "apart", "--parallel", 2]
    line = [str(COMMANDS / "fundus-train"), "fit", *map(str, arguments)]
    stopped = subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while stopped.poll() is None and not rows_of(tmp_path / "apart"):
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    said = stopped.communicate(timeout=120)[1]
    assert (stopped.returncode, said.splitlines()) == (
        143,
        ["Stopped. Every finished epoch is kept: run the same command again; it resumes."],
    )
    again = fit(*arguments)
    assert again.exit_code == 0, again.output
    assert timeless(tmp_path / "apart").keys() == timeless(tmp_path / "plain").keys()
    for fold in range(2):
        name = f"fold_{fold}.safetensors"
        assert (tmp_path / "apart" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    epochs = [(row["fold"], row["epoch"]) for row in rows(tmp_path / "apart" / "epochs.csv")]
    assert sorted(epochs) == [("0", "1"), ("0", "2"), ("1", "1"), ("1", "2")]


def rows_of(run: Path) -> list[dict[str, str]]:
    return rows(run / "epochs.csv") if (run / "epochs.csv").exists() else []


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> object:
    """How many threads share a sum decides its last digit; folds in parallel here have one each."""
    import torch

    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_fold_in_a_process_of_its_own_is_as_deterministic_as_the_recipe_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    was = []
    monkeypatch.setattr(Experiment, "_prepare", lambda _: (None, None))
    monkeypatch.setattr(pseudo, "no_labels", lambda *_: None)
    monkeypatch.setattr(
        Experiment, "_fit_fold", lambda *_: was.append(torch.are_deterministic_algorithms_enabled())
    )
    for wanted in (False, True):
        recipe = Recipe("x", Network("resnet18"), training=Training(deterministic=wanted))
        nothing: Any = None
        Experiment(recipe, nothing, tmp_path, tmp_path, None, nothing, nothing).fit_only(0, 0)
    assert was == [False, True]
