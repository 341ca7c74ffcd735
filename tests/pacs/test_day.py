"""Studies that are complete, and the folder of a day: what goes in, what goes back, what stays."""

import csv
import importlib.util
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="an archive needs the extra `pacs`")

from tests.client.fakes import SPEC
from tests.client.test_journal import scored
from tests.dicom.objects import file_of, ophthalmic, phantom

from fundus_client.dicom.frames import unknown
from fundus_client.pacs.day import OBJECTS, OPEN, Day, left_open, open_day, prune
from fundus_client.pacs.studies import Studies

if importlib.util.find_spec("pytriton") is None:
    pytest.skip("needs the extra `embedded`: the wheel's tritonserver", allow_module_level=True)


TODAY = date.today()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def put(spool: Path, study: str, *names: str) -> None:
    (spool / study).mkdir(parents=True, exist_ok=True)
    for name in names:
        (spool / study / f"{name}.dcm").write_bytes(
            file_of(ophthalmic(phantom(), StudyInstanceUID=study, SOPInstanceUID=f"1.2.{name}"))
        )


def test_a_study_is_complete_when_nothing_came_for_a_while(tmp_path: Path) -> None:
    clock = Clock()
    studies = Studies(tmp_path, 60, clock)
    put(tmp_path, "1.1", "1")
    (tmp_path / ".incoming").mkdir()
    (tmp_path / ".incoming" / "half").touch()
    assert studies.complete() == []
    clock.now += 59
    put(tmp_path, "1.1", "3")
    assert studies.complete() == []
    clock.now += 59
    assert studies.complete() == []
    clock.now += 1
    assert studies.complete() == [tmp_path / "1.1"]
    for path in (tmp_path / "1.1").iterdir():
        path.unlink()
    clock.now += 1000
    assert studies.complete() == [], "an empty folder is no study"


def test_only_folders_that_stay_empty_are_removed(tmp_path: Path) -> None:
    old, young, full = (tmp_path / name for name in ("1.1", "1.2", "1.3"))
    for folder in (old, young):
        folder.mkdir()
    put(tmp_path, full.name, "1")
    for folder in (old, full):
        os.utime(folder, (0, 0))
    Studies(tmp_path, 60).tidy()
    assert sorted(tmp_path.iterdir()) == [young, full]


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("days", "spool"):
        (tmp_path / name).mkdir()
    put(tmp_path / "spool", "1.1", "1", "2")
    put(tmp_path / "spool", "1.2", "3")
    return tmp_path / "days", tmp_path / "spool"


def ids(day: Day) -> list[str]:
    return [ref.image_id for ref in day.everything(unknown)]


def table(folder: Path) -> dict[str, str]:
    with (folder / "scores.csv").open(newline="") as file:
        return {row["image_id"]: row["status"] for row in csv.DictReader(file)}


def answer(day: Day, *image_ids: str) -> None:
    stamps = {ref.image_id: ref.stamp() for ref in day.everything(unknown)}
    for number, image_id in enumerate(image_ids):
        day.journal.record(image_id, stamps[image_id], scored(image_id, f"{number}"))
    day.journal.commit()


def test_what_gets_no_answer_goes_back_and_has_no_row(places: tuple[Path, Path]) -> None:
    days, spool = places
    with open_day(days, spool, SPEC, unknown, TODAY) as day:
        day.journal.register(day.take(sorted(spool.iterdir())).refs)
        answer(day, "1.1/1.dcm")
        assert day.settle(day.everything(unknown)) == {"scored": 1}
        assert ids(day) == ["1.1/1.dcm"]
        assert table(day.folder) == {"1.1/1.dcm": "scored"}
    assert sorted(path.name for path in spool.rglob("*.dcm")) == ["2.dcm", "3.dcm"]
    assert not (day.folder / OPEN).exists()


def test_what_a_killed_process_left_is_settled_by_the_next_one(places: tuple[Path, Path]) -> None:
    days, spool = places
    with pytest.raises(KeyError), open_day(days, spool, SPEC, unknown, TODAY) as day:
        day.journal.register(day.take(sorted(spool.iterdir())).refs)
        answer(day, "1.1/1.dcm", "1.2/3.dcm")
        raise KeyError
    assert not list(spool.rglob("*.dcm"))
    (again,) = (ids(day) for day in left_open(days, spool, unknown))
    assert again == ["1.1/1.dcm", "1.2/3.dcm"]
    assert table(day.folder) == dict.fromkeys(again, "scored")
    assert [path.name for path in spool.rglob("*.dcm")] == ["2.dcm"]
    assert list(left_open(days, spool, unknown)) == []


def test_another_bundle_has_a_folder_of_its_own(places: tuple[Path, Path]) -> None:
    days, spool = places
    with (
        open_day(days, spool, SPEC, unknown, TODAY),
        open_day(days, spool, replace(SPEC, version="2"), unknown, TODAY),
    ):
        pass
    assert len(list(days.iterdir())) == 2


def test_objects_of_old_days_go_and_their_tables_stay(places: tuple[Path, Path]) -> None:
    days, spool = places
    with open_day(days, spool, SPEC, unknown, TODAY) as day:
        day.take(sorted(spool.iterdir()))
        prune(days, date.today() + timedelta(1))
        assert len(ids(day)) == 3, "an open folder is left alone"
        day.journal.register(day.everything(unknown))
        answer(day, *ids(day))
        day.settle(day.everything(unknown))
    prune(days, date.today())
    assert (day.folder / OBJECTS).exists()
    prune(days, date.today() + timedelta(1))
    assert not (day.folder / OBJECTS).exists()
    assert len(table(day.folder)) == 3


def photograph_again(spool: Path, laterality: str, n_frames: int = 1) -> None:
    """Put the one object of study 1.3 into the spool, or another one of the same UIDs."""
    (spool / "1.3").mkdir(exist_ok=True)
    samples = np.stack([phantom(number) for number in range(n_frames)])
    made = ophthalmic(samples, StudyInstanceUID="1.3", SOPInstanceUID="1.4", ImageLaterality=laterality)
    (spool / "1.3" / "9.dcm").write_bytes(file_of(made))


def take(day: Day, spool: Path) -> None:
    day.take([spool / "1.3"])
    day.journal.register(day.everything(unknown))


def test_an_object_that_comes_again_has_its_own_eye_and_no_score_of_the_other(
    places: tuple[Path, Path],
) -> None:
    days, spool = places
    with open_day(days, spool, SPEC, unknown, TODAY) as day:
        photograph_again(spool, "R", n_frames=2)
        take(day, spool)
        answer(day, "1.3/9.dcm/1", "1.3/9.dcm/2")
        photograph_again(spool, "L")
        take(day, spool)
        row = day.row("1.3/9.dcm")
        assert row and row.acquisition and row.acquisition.laterality == "L"
        assert row.reason.startswith("server_unreachable"), "what was said of the other is not said of it"
        assert day.row("1.3/9.dcm/1") is None
        day.settle(day.everything(unknown))
    assert [path.name for path in spool.rglob("9.dcm")] == ["9.dcm"]


def test_what_goes_back_does_not_take_the_place_of_what_came_meanwhile(places: tuple[Path, Path]) -> None:
    days, spool = places
    with open_day(days, spool, SPEC, unknown, TODAY) as day:
        photograph_again(spool, "R")
        take(day, spool)
        photograph_again(spool, "L")
        newest = (spool / "1.3" / "9.dcm").read_bytes()
        day.settle(day.everything(unknown))
        assert ids(day) == []
    assert (spool / "1.3" / "9.dcm").read_bytes() == newest


def test_a_day_that_another_version_began_goes_back_and_its_table_stays(places: tuple[Path, Path]) -> None:
    days, spool = places
    with pytest.raises(KeyError), open_day(days, spool, SPEC, unknown, TODAY) as day:
        day.journal.register(day.take(sorted(spool.iterdir())).refs)
        answer(day, *ids(day))
        day.settle(day.everything(unknown))
        raise KeyError
    with closing(sqlite3.connect(day.journal.path)) as database:
        database.execute("PRAGMA user_version = 1")
    assert list(left_open(days, spool, unknown)) == []
    assert len(list(spool.rglob("*.dcm"))) == len(table(day.folder)) == 3
    assert not (day.folder / OPEN).exists()
    with open_day(days, spool, SPEC, unknown, TODAY) as again:
        assert again.folder == day.folder
        assert ids(again) == []
