"""Rows and moves: nothing is lost, written twice or overwritten, wherever the process ends."""

import csv
import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
from tests.client import killed
from tests.client.killed import FORM, LEDGER, NAMES, answer, file_all, set_up

from fundus_client.watching import filing
from fundus_client.watching.filing import Filing, Outcome, Places
from fundus_client.watching.inbox import Inbox
from fundus_client.watching.ledger import open_ledger
from fundus_core.errors import UsageError

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
OTHER_FILE_SYSTEM = Path("/dev/shm")  # noqa: S108 (where Linux has one)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return set_up(tmp_path, tmp_path / "done")


def table(places: Places) -> list[dict[str, str]]:
    """The rows of the only table."""
    (path,) = places.tables.glob("scores-*.csv")
    with path.open(errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def arrive(places: Places, name: str, content: str = "new again") -> None:
    time.sleep(0.01)  # another time of change
    (places.inbox / name).write_text(content)


def no_room(*_: object) -> None:
    raise OSError(28, "no room")


def begin_without_a_table(places: Places) -> None:
    """Record what is in the inbox, and get no further."""
    with mock.patch.object(filing, "_append", no_room), pytest.raises(OSError, match="no room"):
        file_all(places)


def check_all_filed(places: Places) -> None:
    """Nothing is left in the inbox, and what lies elsewhere is what the rows say."""
    assert [path for path in places.inbox.rglob("*") if path.is_file()] == []
    assert (places.done / "eye" / "b.jpg").read_text() == "an older file"
    said = Counter((row["sha256"], row["status"]) for row in table(places))
    there = Counter(
        (hashlib.sha256(path.read_bytes()).hexdigest(), status)
        for folder, status in ((places.done, "scored"), (places.failed, "failed"))
        for path in folder.rglob("*")
        if path.is_file() and path.read_text() != "an older file"
    )
    assert said == there


def test_rows_are_written_and_files_moved(places: Places) -> None:
    outcomes = file_all(places)
    assert [(each.event, each.facts["id"]) for each in outcomes] == [
        ("scored", "eye/b.jpg"),
        ("failed", "failed.jpg"),
    ]
    assert [row["status"] for row in table(places)] == ["scored", "failed"]
    assert list(table(places)[0])[-1] == "time"
    check_all_filed(places)


def test_nothing_is_overwritten_and_the_row_has_the_id_of_the_arrival(places: Places) -> None:
    for number in range(3):
        (places.inbox / "eye" / "b.jpg").write_text(f"new {number}")
        file_all(places)
    there = {path.name: path.read_text() for path in (places.done / "eye").iterdir()}
    new = {f"b-{number + 1}.jpg": f"new {number}" for number in range(3)}
    assert there == {"b.jpg": "an older file"} | new
    assert [row["image_id"] for row in table(places) if row["status"] == "scored"] == ["eye/b.jpg"] * 3


def test_a_process_killed_at_any_line_loses_nothing_and_gives_no_row_twice(tmp_path: Path) -> None:
    """DONE on another file system, so files are copied there; FAILED on that of the inbox."""
    if OTHER_FILE_SYSTEM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems")
    root = OTHER_FILE_SYSTEM / f"{tmp_path.parent.name}-{tmp_path.name}"
    program = [sys.executable, killed.__file__, root, tmp_path]
    try:
        done = subprocess.run(program, capture_output=True, text=True, check=True, env=ONE_THREAD)
        n_lines = int(done.stdout)
        for n in map(str, range(1, n_lines)):
            places = Places(root / n / "inbox", tmp_path / n, root / n / "failed", root / n / "tables")
            assert sorted(row["image_id"] for row in table(places)) == list(NAMES), n
            check_all_filed(places)
        assert n_lines > 100
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize("n_before", [0, 2])
def test_a_line_goes_on_where_it_was_cut_off(places: Places, n_before: int) -> None:
    if n_before:
        file_all(places)
        arrive(places, "eye/b.jpg")
    begin_without_a_table(places)
    with open_ledger(places.tables / LEDGER) as ledger:
        begun, written = ledger.begun(), Filing(places, ledger)._write
        written()
        (path,) = places.tables.glob("*.csv")
        whole = path.read_bytes()
        for cut in (*range(begun[0].entry.line_at, len(whole), 7), len(whole) - 1):
            path.write_bytes(whole[:cut])
            ledger._database.execute("UPDATE begun SET written = 0")
            written()
            assert path.read_bytes() == whole


@pytest.mark.parametrize("edited", ["", "somebody's own text", "image_id\r\nshort.jpg\r\n"])
def test_a_table_that_somebody_changed_gets_the_missing_lines(places: Places, edited: str) -> None:
    file_all(places)
    (path,) = places.tables.glob("*.csv")
    header = path.read_text().splitlines()[0]
    arrive(places, "eye/b.jpg")
    begin_without_a_table(places)
    path.write_text(edited)
    file_all(places)
    *before, last = path.read_text().splitlines()
    assert before == (edited.splitlines() or [header])
    assert last.startswith("eye/b.jpg,")


def test_what_changed_since_it_was_read_is_left_alone(places: Places) -> None:
    with open_ledger(places.tables / LEDGER) as ledger:
        arrivals = Inbox(places.inbox, settle_s=0).scan(()).ready
        answers = [answer(places, arrival) for arrival in arrivals]
        (places.inbox / "failed.jpg").write_text("sent once more")
        (places.inbox / "eye" / "b.jpg").unlink()
        outcomes = Filing(places, ledger).file(answers)
    assert outcomes == [
        Outcome("skipped", name, {"id": name, "reason": "changed"}) for name in ("eye/b.jpg", "failed.jpg")
    ]
    assert (places.inbox / "failed.jpg").read_text() == "sent once more"
    assert list(places.tables.glob("*.csv")) == []


def test_what_is_sent_again_before_the_move_is_another_arrival(places: Places) -> None:
    away = places.done.rename(places.done.with_name("away"))
    assert [each.event for each in file_all(places)] == ["stuck", "failed"]
    away.rename(places.done)
    arrive(places, "eye/b.jpg", "sent again")
    file_all(places)
    assert (places.inbox / "eye" / "b.jpg").read_text() == "sent again"
    file_all(places)
    assert (places.done / "eye" / "b-1.jpg").read_text() == "sent again"
    assert [row["image_id"] for row in table(places)] == ["eye/b.jpg", "failed.jpg", "eye/b.jpg"]


def test_a_stuck_file_is_told_once_and_holds_nothing_up(places: Places) -> None:
    away = places.done.rename(places.done.with_name("away"))
    with open_ledger(places.tables / LEDGER) as ledger:
        arrivals = Inbox(places.inbox, settle_s=0).scan(()).ready
        filed = Filing(places, ledger)
        events = [each.event for each in filed.file([answer(places, each) for each in arrivals])]
        (written,) = places.tables.glob("*.csv")
        fetched = written.rename(places.failed / "fetched")
        again = filed.file([])
        assert not written.exists()  # its rows are not written once more
        fetched.rename(written)
        away.rename(places.done)
        mended = [each.event for each in filed.file([])]
    assert (events, again, mended) == (["stuck", "failed"], [], ["scored"])
    check_all_filed(places)


def test_each_bundle_has_its_own_table(places: Places) -> None:
    other = dataclasses.replace(FORM, labels=("glaucoma", "amd"), bundle_digest="fedcba9876543210")
    with open_ledger(places.tables / LEDGER) as ledger:
        first, second = Inbox(places.inbox, settle_s=0).scan(()).ready
        Filing(places, ledger).file([answer(places, first), answer(places, second, other)])
    days = {path.name[:17] for path in places.tables.glob("*.csv")}
    assert {path.name[18:] for path in places.tables.glob("*.csv")} == {"01234567.csv", "fedcba98.csv"}
    assert all(re.fullmatch(r"scores-\d{4}-\d\d-\d\d", day) for day in days)


def test_odd_names_survive(places: Places) -> None:
    odd = [os.fsdecode(b"\xff.jpg"), 'a "b",\n.jpg', "=1+1.jpg"]
    for name in odd:
        (places.inbox / name).write_text(name.encode("unicode_escape").decode())
    file_all(places)
    assert {path.name for path in places.done.iterdir()} == {"eye", *odd}
    check_all_filed(places)


def test_another_inbox_or_key_may_not_go_on_with_what_is_begun(places: Places) -> None:
    with open_ledger(places.tables / LEDGER) as ledger:
        ledger.belongs_to("first")
        ledger.belongs_to("second")
        places.done.rename(places.done.with_name("away"))
        arrivals = Inbox(places.inbox, settle_s=0).scan(()).ready
        Filing(places, ledger).file([answer(places, each) for each in arrivals])
        with pytest.raises(UsageError, match="another inbox or key"):
            ledger.belongs_to("first")
        ledger.belongs_to("second")
