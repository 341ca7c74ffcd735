"""The journal: what was recorded is there again, whatever ends the process; and only for the same bundle."""

import dataclasses
import math
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.fakes import SPEC
from tests.core.test_rows import DARK

from fundus_client.journal import Found, Journal, journal_path, open_journal
from fundus_core.errors import BundleError, FundusError, UsageError
from fundus_core.files import ImageRef
from fundus_core.rows import ScoreRow

STAMP = b"0123456789abcdef"
GONE = "vanished: It is gone."


def scored(image_id: str, sha256: str = "aa", number: float = 0.25) -> ScoreRow:
    return ScoreRow(image_id, sha256, "scored", "", (number,), ((0.125,), (0.5,)), DARK)


def failed(image_id: str, sha256: str = "", code: str = "vanished") -> ScoreRow:
    return ScoreRow(image_id, sha256, "failed", f"{code}: It is gone.", None, None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return journal_path(tmp_path / "scores.csv")


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with open_journal(path, fresh=False) as opened:
        opened.belongs_to(SPEC)
        yield opened


def refs(folder: Path, *names: str) -> list[ImageRef]:
    for name in names:
        (folder / name).write_text(name)
    return [ImageRef(name, folder / name) for name in names]


def test_rows_come_back_in_the_order_of_their_ids_whatever_order_they_came_in(
    journal: Journal, tmp_path: Path
) -> None:
    found = journal.register(refs(tmp_path, "b", "c", "a", "d"))
    journal.record("c", STAMP, failed("c"))
    journal.record("b", STAMP, failed("b", "bb", "corrupt"))
    journal.record("a", STAMP, scored("a"))
    journal.commit()
    assert found == Found(4, 0)
    assert list(journal.rows(GONE)) == [scored("a"), failed("b", "bb", "corrupt"), failed("c"), failed("d")]


def test_what_is_said_of_another_content_is_not_in_the_row_of_this_one(path: Path, tmp_path: Path) -> None:
    (ref,) = refs(tmp_path, "a")
    with open_journal(path, fresh=False) as journal:
        journal.belongs_to(SPEC)
        journal.register([ref])
        journal.record("a", ref.stamp(), scored("a"))
        journal.commit()
    ref.path.write_text("another content")
    with open_journal(path, fresh=False) as journal:
        journal.belongs_to(SPEC)
        journal.register([ref])
        assert list(journal.rows(GONE)) == [failed("a")]


def test_a_name_is_bytes(journal: Journal, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9\n'\"; DROP TABLE found.jpg")
    journal.register([ImageRef(odd, tmp_path)])
    journal.record(odd, STAMP, scored(odd))
    journal.commit()
    assert list(journal.rows(GONE)) == [scored(odd)]


def test_an_input_that_comes_twice_is_one(journal: Journal, tmp_path: Path) -> None:
    assert journal.register(refs(tmp_path, "a", "b", "a")) == Found(2, 0)


def test_a_file_is_known_as_long_as_it_is_the_same(journal: Journal, tmp_path: Path) -> None:
    (ref,) = refs(tmp_path, "a")
    journal.record("a", ref.stamp(), scored("a"))
    journal.commit()
    assert journal.register([ref]) == Found(1, 1)
    ref.path.write_text("something else")
    assert not journal.knows("a", ref.stamp())
    assert not journal.knows("a", b""), "a file without a stamp is never known"


def test_content_is_known_before_it_is_committed_and_after(journal: Journal) -> None:
    journal.record("a", STAMP, scored("a", "cc"))
    assert journal.answer("cc") == scored("a", "cc")
    journal.commit()
    assert journal.answer("cc") == scored("", "cc")
    assert journal.answer("dd") is None


def test_another_run_cannot_open_it(journal: Journal, path: Path) -> None:
    with pytest.raises(UsageError, match="Another run has"), open_journal(path, fresh=False):
        pass


def test_a_fold_that_was_not_asked_stays_unknown(journal: Journal, tmp_path: Path) -> None:
    journal.register(refs(tmp_path, "a"))
    journal.record("a", STAMP, dataclasses.replace(scored("a"), fold_probability=((0.25,), (math.nan,))))
    journal.commit()
    (row,) = journal.rows(GONE)
    assert str(row.fold_probability) == "((0.25,), (nan,))"


@pytest.mark.parametrize("first", [True, False])
def test_it_mixes_no_answers_of_some_folds_with_answers_of_all(journal: Journal, first: bool) -> None:
    journal.belongs_to(SPEC, adaptive=first)
    journal.record("a", STAMP, scored("a"))
    journal.commit()
    journal.belongs_to(SPEC, adaptive=first)
    option = "with" if first else "without"
    with pytest.raises(UsageError, match=f"Go on {option} --adaptive"):
        journal.belongs_to(SPEC, adaptive=not first)
    with pytest.raises(BundleError, match="Serve it again"):
        journal.belongs_to(dataclasses.replace(SPEC, version="2"), adaptive=first)


def test_it_belongs_to_one_bundle(journal: Journal) -> None:
    other = dataclasses.replace(SPEC, version="2")
    journal.belongs_to(other)  # nothing was answered yet
    journal.record("a", STAMP, scored("a"))
    journal.commit()
    with pytest.raises(BundleError) as error:
        journal.belongs_to(SPEC)
    assert other.digest[:12] in str(error.value)
    assert SPEC.digest[:12] in str(error.value)
    assert "--fresh" in str(error.value)


def test_failures_can_be_forgotten_and_scores_stay(journal: Journal, tmp_path: Path) -> None:
    found = refs(tmp_path, "a", "b", "c")
    for ref, row in zip(found, (scored("a"), failed("b"), failed("c", "cc", "corrupt")), strict=True):
        journal.record(ref.image_id, ref.stamp(), row)
    journal.commit()
    assert [journal.knows(ref.image_id, ref.stamp()) for ref in found] == [True, False, True]
    journal.forget_failures()
    assert [journal.knows(ref.image_id, ref.stamp()) for ref in found] == [True, False, False]
    assert journal.answer("cc") is None


def test_a_journal_of_another_version_is_refused_and_begun_anew_with_fresh(path: Path) -> None:
    database = sqlite3.connect(path)
    database.executescript("CREATE TABLE answers (sha256 TEXT, ungradable TEXT); PRAGMA user_version = 1;")
    database.close()
    with pytest.raises(UsageError, match=r"Another version .* --fresh"), open_journal(path, fresh=False):
        pass
    with open_journal(path, fresh=True) as journal:
        journal.record("a", b"", scored("a"))
        journal.commit()


def test_fresh_forgets_everything(path: Path) -> None:
    with open_journal(path, fresh=False) as journal:
        journal.record("a", STAMP, scored("a"))
        journal.commit()
    with open_journal(path, fresh=True) as journal:
        assert journal.answer("aa") is None
        assert not journal.knows("a", STAMP)


@pytest.mark.parametrize("content", [b"no database, but long enough to be taken for one" * 100, b"short"])
def test_something_else_in_its_place_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(FundusError, match="is no journal, or damaged"), open_journal(path, fresh=False):
        pass
    assert path.read_bytes() == content


def test_a_full_disk_loses_nothing_that_was_committed(path: Path) -> None:
    with open_journal(path, fresh=False) as journal:
        journal.belongs_to(SPEC)
        journal.record("a", STAMP, scored("a"))
        journal.commit()
        journal._database.execute("PRAGMA max_page_count = 12")
        for number in range(10_000):
            journal.record(f"file {number}", STAMP, scored("", f"{number:064}"))
        with pytest.raises(FundusError, match=r"full.* what was committed is kept"):
            journal.commit()
    with open_journal(path, fresh=False) as journal:
        assert journal.answer("aa") is not None
        assert journal.knows("a", STAMP)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from tests.client.fakes import SPEC
    from tests.client.test_journal import STAMP, scored
    from fundus_client.journal import open_journal
    with open_journal(Path(sys.argv[1]), fresh=False) as journal:
        journal.belongs_to(SPEC)
        for number in range(100):
            journal.record(f"{number}", STAMP, scored("", f"{number}"))
            if number == 49:
                journal.commit()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_committed_survives_kill_9(path: Path) -> None:
    line = [sys.executable, "-c", textwrap.dedent(KILLED), str(path)]
    done = subprocess.run(line, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    with open_journal(path, fresh=False) as journal:
        assert [journal.knows(str(number), STAMP) for number in range(100)] == [True] * 50 + [False] * 50
        assert journal.answer("49") == scored("", "49")


def test_every_commit_is_flushed_to_the_disk(path: Path) -> None:
    """With these settings SQLite promises it; a loss of power cannot be made here."""
    with open_journal(path, fresh=False) as journal:
        settings = ("synchronous", "journal_mode", "locking_mode")
        told = [journal._database.execute(f"PRAGMA {name}").fetchone()[0] for name in settings]
    assert told == [2, "wal", "exclusive"]
