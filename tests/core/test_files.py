import errno
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fundus_core.errors import ImageError, UsageError
from fundus_core.files import find_images, read_encoded
from fundus_core.images import DEFAULT_LIMITS, ImageLimits

NOBODY = 65534
ODD_NAMES = [
    "with space.jpg",
    " leading.jpg",
    "眼底.PNG",
    "e\u0301.tif",
    "new\nline.jpeg",
    "tab\t'quote\".bmp",
    os.fsdecode(b"latin1-\xe9\xff.jpg"),
    ".hidden.jpg",
    "-dash.jpg",
]


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))
    return folder


def ids(*paths: Path) -> list[str]:
    return [ref.image_id for ref in find_images(paths)]


def reason_of(path: Path, limits: ImageLimits = DEFAULT_LIMITS) -> str:
    with pytest.raises(ImageError) as caught:
        read_encoded(path, limits)
    assert str(caught.value)
    return caught.value.reason


def as_nobody(test: Callable[[], None]) -> None:
    """Run `test` in a child that has no rights here; root could read everything."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setegid(NOBODY)
                os.seteuid(NOBODY)
            test()
            status = 0
        except BaseException:  # the child must never return into pytest
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0, "see the traceback above"


@pytest.fixture
def open_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that anybody may enter, below parents that pytest keeps for their owner."""
    opened = [folder for folder in (tmp_path, *tmp_path.parents) if folder.stat().st_uid == os.getuid()]
    modes = {folder: folder.stat().st_mode for folder in opened if folder.name.startswith("pytest-")}
    for folder, mode in (modes | {tmp_path: tmp_path.stat().st_mode}).items():
        folder.chmod(mode | 0o055)
    yield tmp_path
    for folder, mode in modes.items():
        folder.chmod(mode)
    for path in tmp_path.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755)


def test_a_folder_is_searched_recursively_by_suffix_in_any_case(tmp_path: Path) -> None:
    taken = ["a.jpg", "b.JPEG", "c.PnG", "deep/er/d.tiff", "deep/e.TIF", "f.bmp", "g.jpe", "h.jfif"]
    fill(tmp_path, *taken, "labels.csv", "deep/notes.txt", "jpg", "a.jpg.txt", ".jpg")
    assert ids(tmp_path) == sorted(taken)


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(
        st.lists(st.sampled_from(["a", "a.", "a-b", "a b", "A", "b", "0", "é", "~"]), min_size=1, max_size=3),
        min_size=1,
        max_size=12,
    )
)
def test_the_order_of_the_stream_is_that_of_the_whole_relative_paths(
    tmp_path_factory: pytest.TempPathFactory, names: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("order")
    expected = {"/".join(parts) + ".jpg" for parts in names}
    fill(folder, *expected)
    assert ids(folder) == sorted(expected)


def test_files_are_found_while_the_search_goes_on(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.jpg", "b/2.jpg")
    found = find_images([tmp_path])
    assert next(found).image_id == "a/1.jpg"
    fill(tmp_path, "b/3.jpg")
    assert [ref.image_id for ref in found] == ["b/2.jpg", "b/3.jpg"]


def test_a_named_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    fill(tmp_path, "scan.dat", "other.dat", "eye.jpg")
    assert ids(tmp_path / "scan.dat") == ["scan.dat"]
    assert ids(tmp_path / "scan.dat", tmp_path / "eye.jpg") == ["eye.jpg", "scan.dat"]


def test_ids_of_several_paths_start_at_their_common_parent(tmp_path: Path) -> None:
    fill(tmp_path, "x/left/1.png", "x/right/1.png", "x/left.jpg", "y/2.png")
    paths = [tmp_path / "x" / "right", tmp_path / "x" / "left.jpg", tmp_path / "x" / "left"]
    assert ids(*paths) == ["left.jpg", "left/1.png", "right/1.png"]
    assert ids(*paths, tmp_path / "y") == ["x/left.jpg", "x/left/1.png", "x/right/1.png", "y/2.png"]


def test_nothing_is_taken_twice(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.jpg", "a/b/2.jpg")
    roots = [tmp_path / "a" / "b", tmp_path, tmp_path / "a" / "1.jpg", tmp_path / "a" / ".." / "a", tmp_path]
    assert ids(*roots) == ["a/1.jpg", "a/b/2.jpg"]


def test_the_same_stem_in_two_folders_gives_two_files(tmp_path: Path) -> None:
    fill(tmp_path, "left/1.png", "right/1.png", "right/1.jpg")
    found = list(find_images([tmp_path]))
    assert {ref.image_id: ref.path.read_bytes().decode() for ref in found} == {
        name: name for name in ("left/1.png", "right/1.png", "right/1.jpg")
    }


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_is_found_and_read(name: str, tmp_path: Path) -> None:
    fill(tmp_path, f"{name}/{name}")
    (found,) = find_images([tmp_path])
    assert found.image_id == f"{name}/{name}"
    assert read_encoded(found.path, DEFAULT_LIMITS) == os.fsencode(f"{name}/{name}")


def test_a_relative_path_gives_the_same_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a/1.jpg", "2.jpg")
    monkeypatch.chdir(tmp_path)
    assert ids(Path()) == ["2.jpg", "a/1.jpg"]
    assert ids(Path("a")) == ["1.jpg"]


def test_a_broken_link_is_listed_and_then_vanished(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (found,) = find_images([tmp_path])
    assert reason_of(found.path) == "vanished"
    assert ids(found.path) == ["gone.jpg"]


def test_a_link_to_itself_does_not_hide_its_neighbours(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "z/b.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    assert ids(tmp_path) == ["a.jpg", "self.jpg", "z/b.jpg"]
    assert reason_of(tmp_path / "self.jpg") == "unreadable"


def test_links_between_folders_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "b" / "a").symlink_to("../a")
    assert ids(tmp_path) == sorted(["a/1.jpg", "b/2.jpg", "b/a/1.jpg"])


@pytest.mark.timeout(10)
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (found,) = find_images([tmp_path])
    assert reason_of(found.path) == "not_a_file"


@pytest.mark.parametrize(
    ("size", "reason"), [(0, "empty"), (101, "too_large")], ids=["of 0 bytes", "above the limit"]
)
def test_a_file_is_refused_unread(size: int, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(size))
    assert reason_of(path, ImageLimits(max_bytes=100)) == reason


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(bytes(100))
    assert read_encoded(tmp_path / "a.jpg", ImageLimits(max_bytes=100)) == bytes(100)


def test_a_huge_sparse_file_is_refused_by_its_size(tmp_path: Path) -> None:
    try:
        with (tmp_path / "a.tif").open("wb") as file:
            file.truncate(2**42)
    except OSError as error:
        assert error.errno in (errno.EFBIG, errno.ENOSPC)
        pytest.skip("this file system cannot hold a sparse file of 4 TiB")
    assert reason_of(tmp_path / "a.tif") == "too_large"


def test_a_file_that_vanishes_after_the_search_says_so(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    (found,) = find_images([tmp_path])
    found.path.unlink()
    assert reason_of(found.path) == "vanished"


def test_a_path_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    with pytest.raises(UsageError, match=r"There is no file or folder '.*missing'\. Check the path"):
        ids(tmp_path, tmp_path / "missing")


def test_a_folder_without_images_yields_nothing(tmp_path: Path) -> None:
    fill(tmp_path, "labels.csv", "empty/notes.txt")
    assert ids(tmp_path) == []


def test_an_unreadable_file_has_its_reason(open_folder: Path) -> None:
    fill(open_folder, "a.jpg", "b.jpg")
    (open_folder / "a.jpg").chmod(0)

    def test() -> None:
        assert ids(open_folder) == ["a.jpg", "b.jpg"]
        assert reason_of(open_folder / "a.jpg") == "unreadable"
        assert read_encoded(open_folder / "b.jpg", DEFAULT_LIMITS) == b"b.jpg"

    as_nobody(test)


@pytest.mark.parametrize("mode", [0, 0o311], ids=["closed", "cannot be listed"])
def test_an_unreadable_folder_is_one_row_and_hides_nothing_else(mode: int, open_folder: Path) -> None:
    fill(open_folder, "a.jpg", "closed/b.jpg", "z/c.jpg")
    (open_folder / "closed").chmod(mode)

    def test() -> None:
        found = {ref.image_id: ref.path for ref in find_images([open_folder])}
        assert list(found) == ["a.jpg", "closed/", "z/c.jpg"]
        assert reason_of(found["closed/"]) == "unreadable"

    as_nobody(test)


def test_a_link_into_a_closed_folder_does_not_hide_its_neighbours(open_folder: Path) -> None:
    fill(open_folder, "a.jpg", "closed/b.jpg")
    (open_folder / "link.jpg").symlink_to("closed/b.jpg")
    (open_folder / "closed").chmod(0)

    def test() -> None:
        assert ids(open_folder) == ["a.jpg", "closed/", "link.jpg"]
        assert reason_of(open_folder / "link.jpg") == "unreadable"

    as_nobody(test)


def test_files_of_a_folder_that_nobody_may_enter_have_their_reason(open_folder: Path) -> None:
    fill(open_folder, "closed/b.jpg")
    (open_folder / "closed").chmod(0o444)

    def test() -> None:
        assert ids(open_folder) == ["closed/b.jpg"]
        assert reason_of(open_folder / "closed" / "b.jpg") == "unreadable"

    as_nobody(test)


def test_a_closed_folder_has_no_size_and_no_stamp(open_folder: Path) -> None:
    fill(open_folder, "closed/b.jpg")
    (open_folder / "closed").chmod(0)

    def test() -> None:
        (found,) = find_images([open_folder])
        assert (found.size_bytes(), found.stamp()) == (0, b"")

    as_nobody(test)


def test_a_folder_that_is_named_as_a_file_is_not_read(tmp_path: Path) -> None:
    assert reason_of(fill(tmp_path, "a.jpg")) == "not_a_file"
