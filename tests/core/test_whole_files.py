"""What a file to score tells of itself, and files that are written whole."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.core.test_files import ODD_NAMES, fill

from fundus_core.errors import ImageError
from fundus_core.files import ImageRef, find_images, whole_file
from fundus_core.images import DEFAULT_LIMITS


def test_a_ref_tells_its_size_and_reads_itself(tmp_path: Path) -> None:
    (found,) = find_images([fill(tmp_path, "a.jpg")])
    assert found.size_bytes() == 5
    assert found.read(DEFAULT_LIMITS) == b"a.jpg"
    found.path.unlink()
    assert (found.size_bytes(), found.stamp()) == (0, b"")
    with pytest.raises(ImageError):
        found.read(DEFAULT_LIMITS)


def test_a_stamp_is_the_same_while_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = find_images([fill(tmp_path, "a.jpg")])
    monkeypatch.chdir(tmp_path)
    (by_another_way,) = find_images([Path()])
    assert len(found.stamp()) == 16
    assert found.read(DEFAULT_LIMITS)
    assert found.stamp() == by_another_way.stamp() == ImageRef("another id", Path("a.jpg")).stamp()


def grow(path: Path) -> None:
    path.write_bytes(b"longer than before")


def change_and_set_the_old_time(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"A.jpg")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_a_copy(path: Path) -> None:
    status = path.stat()
    copy = path.with_name("copy")
    copy.write_bytes(b"A.jpg")
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy.replace(path)


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("change", [grow, change_and_set_the_old_time, replace_by_a_copy, touch])
def test_a_stamp_tells_that_a_file_may_have_changed(change: Callable[[Path], None], tmp_path: Path) -> None:
    (found,) = find_images([fill(tmp_path, "a.jpg")])
    before = found.stamp()
    change(found.path)
    assert found.stamp() != before


def test_files_of_the_same_content_have_stamps_of_their_own(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    os.link(tmp_path / "a.jpg", tmp_path / "b.jpg")
    first, second = (ref.stamp() for ref in find_images([tmp_path]))
    assert first != second


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_file_is_written_whole(name: str, tmp_path: Path) -> None:
    with whole_file(tmp_path / name) as path:
        path.write_text("new")
        assert not (tmp_path / name).exists()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "new"}


def test_a_file_that_is_not_finished_leaves_the_old_one_and_no_rest(tmp_path: Path) -> None:
    fill(tmp_path, "a.csv")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.csv") as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.csv": "a.csv"}


def test_a_whole_file_is_on_the_disk_before_it_gets_its_name_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, fsync = [], os.fsync

    def watch(descriptor: int) -> None:
        flushed.append((Path(f"/proc/self/fd/{descriptor}").readlink(), (tmp_path / "a.csv").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    with whole_file(tmp_path / "a.csv") as path:
        path.write_text("new")
    assert flushed == [(path, False), (tmp_path, True)]
