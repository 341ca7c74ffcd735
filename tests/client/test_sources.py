"""Files, folders and patterns of this computer."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.reading import found, reason_of
from tests.core.test_files import fill

from fundus_client.sources import open_source
from fundus_client.sources.pattern import parse_pattern
from fundus_core.errors import UsageError
from fundus_core.files import find_images


def ids(*inputs: str | Path) -> list[str]:
    return list(found(*inputs))


def test_starting_the_client_imports_no_library_of_a_store_or_of_parquet() -> None:
    code = "import sys, fundus_client.sources, fundus_client.sinks; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"fsspec", "s3fs", "botocore", "pyarrow"} & set(done.stdout.split())


def test_folders_and_files_are_those_of_find_images(tmp_path: Path) -> None:
    fill(tmp_path, "x/left/1.png", "x/right/1.png", "x/left.jpg", "x/scan.dat", "x/notes.txt")
    for names in (["x"], ["x/left", "x/scan.dat"], ["x/right", "x/left.jpg", "x/left"]):
        paths = [tmp_path / name for name in names]
        assert ids(*paths) == [ref.image_id for ref in find_images(paths)]
    assert ids(f"file://{tmp_path}/x") == ids(tmp_path / "x")


def test_a_source_is_walked_anew_each_time(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b/1.jpg")
    source = open_source([f"{tmp_path}/*", str(tmp_path / "a.jpg")], None)
    (tmp_path / "a.jpg").unlink()
    fill(tmp_path, "b/2.jpg")
    (gone, *others) = source
    assert (gone.image_id, reason_of(gone)) == ("a.jpg", "vanished")
    assert [ref.image_id for ref in others] == ["b/1.jpg", "b/2.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("images/*.jpg", ["a.jpg"]),
        ("images/**/*.jpg", ["2024/b.jpg", "2024/deep/c.jpg", "2025/d.jpg", "a.jpg"]),
        ("images/2024/**/*.jpg", ["b.jpg", "deep/c.jpg"]),
        ("images/202[45]/?.*", ["2024/b.jpg", "2025/d.jpg", "2025/e.dat"]),
        ("images/*5", ["2025/d.jpg"]),
        ("images/**/deep/**", ["2024/deep/c.jpg"]),
        ("imag*/a.jpg", ["images/a.jpg"]),
        ("**/e.dat", ["images/2025/e.dat"]),
    ],
)
def test_a_pattern_takes_what_matches_and_the_images_below(
    pattern: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a.jpg", "2024/b.jpg", "2024/deep/c.jpg", "2025/d.jpg", "2025/e.dat"]
    fill(tmp_path, *(f"images/{name}" for name in names))
    assert ids(tmp_path / pattern) == expected
    monkeypatch.chdir(tmp_path)
    assert ids(pattern) == expected


def test_ids_do_not_depend_on_what_a_pattern_matches(tmp_path: Path) -> None:
    fill(tmp_path, "images/2024/a.jpg", "images/2024/b.png")
    assert ids(f"{tmp_path}/images/*/*.jpg") == ["2024/a.jpg"]
    assert ids(f"{tmp_path}/images/*/*.png", tmp_path / "images/2024/a.jpg") == ["2024/a.jpg", "2024/b.png"]


def test_ids_of_several_patterns_start_at_their_common_folder(tmp_path: Path) -> None:
    fill(tmp_path, "left/1.jpg", "left/2.png", "right/1.jpg", "right/2.png", "c.jpg")
    patterns = [f"{tmp_path}/left/*.jpg", f"{tmp_path}/right/*.png"]
    assert ids(*patterns) == ["left/1.jpg", "right/2.png"]
    assert ids(*patterns, tmp_path / "c.jpg") == ["c.jpg", "left/1.jpg", "right/2.png"]


def test_nothing_is_taken_twice_and_the_order_is_that_of_the_ids(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.jpg", "a/b/2.jpg", "a.jpg", "c.png")
    inputs = [f"{tmp_path}/**/*.jpg", f"{tmp_path}/?.*", str(tmp_path / "a/b"), str(tmp_path / "c.png")]
    assert ids(*inputs) == ["a.jpg", "a/1.jpg", "a/b/2.jpg", "c.png"]


def test_a_name_with_wildcards_is_itself(tmp_path: Path) -> None:
    fill(tmp_path, "[a].jpg", "a.jpg", "x*/b.jpg", "xy/c.jpg")
    assert ids(tmp_path / "[a].jpg") == ["[a].jpg"]
    assert ids(tmp_path / "x*") == ["b.jpg"]


def test_a_pattern_enters_no_folder_that_cannot_hold_a_match(tmp_path: Path) -> None:
    fill(tmp_path, "2024/a.jpg", "2025/b.jpg")
    entered = []

    def watch(frame: object, event: str, argument: object) -> None:
        if event == "c_call" and getattr(argument, "__name__", "") == "scandir":
            entered.append(frame.f_locals["folder"].name)  # type: ignore[attr-defined]

    sys.setprofile(watch)
    try:
        found = ids(f"{tmp_path}/*4/*.jpg")
    finally:
        sys.setprofile(None)
    assert found == ["2024/a.jpg"]
    assert set(entered) == {tmp_path.name, "2024"}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "ab", "b"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "*", "?", "a*", "[ab]", "**"]), min_size=1, max_size=4),
)
def test_whatever_a_pattern_takes_lies_in_folders_that_it_enters(parts: list[str], wild: list[str]) -> None:
    if not set(wild) - {"a"}:
        return
    pattern = parse_pattern("/".join(["", *wild]))
    path = "/".join(parts)[len(pattern.folder) :]
    if pattern.wants(f"{path}.jpg", False):
        folders = path.split("/")[:-1]
        assert all(pattern.wants("/".join(folders[:n]), True) for n in range(1, len(folders) + 1))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing", "There is no file or folder '.*missing'. Check the path"),
        ("", "There is no file or folder ''"),
        ("missing/*.jpg", "There is no file or folder '.*missing'. Check the path"),
        ("*.gif", "Nothing matches '.*gif'"),
    ],
)
def test_an_input_that_is_not_there_is_a_usage_error(name: str, sentence: str, tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    with pytest.raises(UsageError, match=sentence):
        ids(tmp_path / "a.jpg", f"{tmp_path}/{name}" if name else "")


@pytest.mark.parametrize(("inputs", "files_from"), [([], None), (["a.jpg"], "list")])
def test_inputs_and_a_list_are_one_too_many_and_neither_too_few(
    inputs: list[str], files_from: str | None
) -> None:
    with pytest.raises(UsageError, match="or a list of them with --files-from, but not both"):
        open_source(inputs, files_from)
