"""What an inbox offers: whole files, oldest first, in memory that does not grow."""

import os
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from fundus_client.watching import inbox
from fundus_client.watching.inbox import Inbox, Scan


def ids(scan: Scan) -> list[str]:
    return [arrival.image_id for arrival in scan.ready]


def test_a_file_is_ready_when_it_stayed_the_same_for_so_long(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("half")
    looked = Inbox(tmp_path, settle_s=0.3)
    assert ids(looked.scan(())) == []
    time.sleep(0.35)
    (tmp_path / "a.jpg").write_text("whole")
    assert ids(looked.scan(())) == []
    time.sleep(0.35)
    assert ids(looked.scan(())) == ["a.jpg"]


def test_a_file_that_was_renamed_into_place_is_ready_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.jpg.part").write_text("whole")
    looked = Inbox(tmp_path, settle_s=60)
    looked.scan(())
    time.sleep(0.02)
    (tmp_path / "a.jpg.part").rename(tmp_path / "a.jpg")
    assert ids(looked.scan(())) == ["a.jpg"]


def test_a_file_that_grows_after_its_rename_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.jpg.part").write_text("half")
    looked = Inbox(tmp_path, settle_s=60)
    looked.scan(())
    time.sleep(0.02)
    (tmp_path / "a.jpg.part").rename(tmp_path / "a.jpg")
    with (tmp_path / "a.jpg").open("a") as file:
        file.write("the rest")
    assert ids(looked.scan(())) == []


def test_what_is_unfinished_or_no_regular_file_is_left(tmp_path: Path) -> None:
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "study.part").mkdir()
    (tmp_path / "eye").mkdir()
    unfinished = (".a.jpg", "a.jpg.PART", "a.jpg.tmp", "a.filepart", ".hidden/a.jpg", "study.part/a.jpg")
    for name in (*unfinished, "notes.txt", "eye/b.JPG"):
        (tmp_path / name).touch()
    (tmp_path / "link.jpg").symlink_to("eye/b.JPG")
    (tmp_path / "folder").symlink_to("eye")
    os.mkfifo(tmp_path / "pipe.jpg")
    scan = Inbox(tmp_path, settle_s=0).scan(())
    assert ids(scan) == ["eye/b.JPG"]
    assert (scan.n_images, scan.n_others, scan.n_unlisted) == (1, 1, 0)


def scan_and_peak(folder: Path) -> tuple[inbox.Scan, int]:
    """Scan, and return the least of three peaks of memory: other threads of the tests allocate too."""
    peaks = []
    for _ in range(3):
        tracemalloc.start()
        scan = Inbox(folder, settle_s=0).scan({"1-1.jpg"})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return scan, min(peaks)


def test_the_oldest_come_first_and_memory_does_not_grow_with_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "OLDEST", 50)
    peaks = []
    for start, stop in ((0, 500), (500, 5000)):
        for number in range(start, stop):
            (tmp_path / f"{number % 7}-{number}.jpg").touch()
            os.utime(tmp_path / f"{number % 7}-{number}.jpg", (0, number))
        scan, peak = scan_and_peak(tmp_path)
        peaks.append(peak)
        assert ids(scan) == [f"{number % 7}-{number}.jpg" for number in range(51) if number != 1]
        assert scan.n_images == stop
    assert peaks[1] < 1.2 * peaks[0]


def test_a_folder_that_cannot_be_listed_is_counted_and_hides_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.jpg").touch()
    scandir = os.scandir

    def refuse(path: Path) -> Iterator[os.DirEntry[str]]:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    scan = Inbox(tmp_path, settle_s=0).scan(())
    assert (ids(scan), scan.n_unlisted) == (["open/a.jpg"], 1)
    with pytest.raises(PermissionError):
        Inbox(tmp_path / "closed", settle_s=0).scan(())
