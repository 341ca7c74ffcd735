"""Files, folders, patterns and lists of this computer; tests/client/test_stores.py has the object stores."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fundus_client.sources import Ref, Source, open_source
from fundus_client.sources.pattern import parse_pattern
from fundus_core.errors import ImageError, UsageError
from fundus_core.files import find_images
from fundus_core.images import DEFAULT_LIMITS

ODD_NAMES = [
    "with space.jpg",
    " leading",
    "眼底.PNG",
    "new\nline.jpg",
    "carriage\r",
    "tab\t'quote\".bmp",
    os.fsdecode(b"latin1-\xe9\xff.jpg"),
    "-dash.jpg",
    "#comment.jpg",
    "%41.jpg",
    "~",
]


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return folder


def ids(*inputs: str | Path) -> list[str]:
    return [ref.image_id for ref in open_source([str(each) for each in inputs], None)]


def listed(folder: Path, content: bytes) -> Source:
    (folder / "list").write_bytes(content)
    return open_source([], str(folder / "list"))


def contents(source: Iterator[Ref] | Source) -> dict[str, bytes]:
    return {ref.image_id: ref.read(DEFAULT_LIMITS) for ref in source}


def reason_of(ref: Ref) -> str:
    with pytest.raises(ImageError) as caught:
        ref.read(DEFAULT_LIMITS)
    return caught.value.reason


def test_starting_the_client_imports_no_library_of_a_store_or_of_parquet() -> None:
    code = "import sys, fundus_client.sources, fundus_client.sinks; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"fsspec", "s3fs", "botocore", "pyarrow"} & set(done.stdout.split())


# --- files, folders and patterns


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


# --- lists


def test_a_list_gives_the_table_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "x/b.jpg", "x/a/1.jpg", "x/a.png")
    monkeypatch.chdir(tmp_path)
    content = f"x/b.jpg\n\n./x//a/1.jpg\nfile://{tmp_path}/x/a.png\nx/a/../b.jpg"
    source = listed(tmp_path, content.encode())
    assert contents(source) == contents(open_source(["x"], None))
    assert [ref.image_id for ref in source] == ["a.png", "a/1.jpg", "b.jpg"]
    assert source.n_repeated == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"], ids=["lines", "DOS lines", "zero bytes"])
def test_names_may_end_in_each_of_three_ways(end: str, tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b c.jpg")
    names = [f"{tmp_path}/{name}" for name in ("b c.jpg", "a.jpg")]
    for text in (end.join(names), end.join(names) + end, "\ufeff" + end.join(names)):
        assert list(contents(listed(tmp_path, text.encode()))) == ["a.jpg", "b c.jpg"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=8))
def test_any_bytes_of_a_name_survive_a_list(
    tmp_path_factory: pytest.TempPathFactory, names: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    names = [name for name in names if not set(name) & set(b"\0/") and name not in (b".", b"..")] or [b"a"]
    paths = [os.fsencode(folder / "files") + b"/" + name for name in names]
    (folder / "files").mkdir()
    for path, name in zip(paths, names, strict=True):
        Path(os.fsdecode(path)).write_bytes(name)
    source = listed(folder, b"".join(path + b"\0" for path in paths))
    assert contents(source) == {os.fsdecode(name): name for name in names}
    assert [ref.image_id for ref in source] == sorted({os.fsdecode(name) for name in names})
    assert source.n_repeated == len(names) - len(set(names))


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_is_read_from_a_list(name: str, tmp_path: Path) -> None:
    fill(tmp_path, f"{name}/{name}", "plain")
    content = os.fsencode(f"{tmp_path}/{name}/{name}\0{tmp_path}/plain\0")
    assert contents(listed(tmp_path, content)) == {
        f"{name}/{name}": os.fsencode(f"{name}/{name}"),
        "plain": b"plain",
    }


def test_what_a_list_names_wrongly_is_a_row(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "folder/b.jpg")
    refs = {
        ref.image_id: ref
        for ref in listed(tmp_path, f"{tmp_path}/a.jpg\n{tmp_path}/c.jpg\n{tmp_path}/folder".encode())
    }
    assert list(refs) == ["a.jpg", "c.jpg", "folder"]
    assert (reason_of(refs["c.jpg"]), reason_of(refs["folder"])) == ("vanished", "not_a_file")


def test_a_list_is_longer_than_one_read_and_kept_as_it_was(tmp_path: Path) -> None:
    names = [f"/nowhere/{number:05}/{'x' * 100}.jpg" for number in range(3000)]
    source = listed(tmp_path, "\n".join(reversed(names)).encode())
    (tmp_path / "list").unlink()
    expected = [name.removeprefix("/nowhere/") for name in names]
    assert [ref.image_id for ref in source] == [ref.image_id for ref in source] == expected


def test_two_walks_of_a_list_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    source = listed(tmp_path, b"/a/1\n/a/2\n/a/3\n")
    both = zip(source, source, strict=True)
    assert [(one.image_id, two.image_id) for one, two in both] == [(each, each) for each in "123"]


def test_standard_input_is_walked_twice(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    code = """
from fundus_client.sources import open_source
source = open_source([], "-")
print(*[ref.image_id for ref in source], *[ref.image_id for ref in source])
"""
    for content in (f"{tmp_path}/b.jpg\n{tmp_path}/a.jpg\n", f"{tmp_path}/a.jpg\0{tmp_path}/b.jpg\0"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=content,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout.split() == ["a.jpg", "b.jpg", "a.jpg", "b.jpg"]


def test_a_long_list_takes_no_memory(tmp_path: Path) -> None:
    code = """
import resource, sys
from fundus_client.sources import open_source
def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak_mb()
n = sum(1 for _ in open_source([], sys.argv[1]))
print(n, peak_mb() - before)
"""
    with (tmp_path / "list").open("w") as file:
        file.writelines(f"/data/patient-{number:06}/photographs/left.jpg\n" for number in range(100_000))
    line = [sys.executable, "-c", code, str(tmp_path / "list")]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120)
    n_names, grown_mb = done.stdout.split()
    assert n_names == "100000"
    assert float(grown_mb) < 10


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "names no image. Write one path or address a line"),
        (b"\n\n", "names no image"),
        ("a.jpg\n".encode("utf-16"), "is UTF-16. Save the list as UTF-8"),
        (b"a" * 2**18, "is no list of paths"),
        (b"a.jpg\n" * 20_000 + b"b\0.jpg", "is no list of paths"),
        (b"a.jpg\ns3://bucket/b.jpg\n", "'s3://bucket/b.jpg' is not where the others are"),
        (b"https://example.org/a.jpg", "Only stores such as s3://bucket/folder are read"),
    ],
)
def test_what_is_no_list_is_a_usage_error(content: bytes, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        listed(tmp_path, content)


def test_a_list_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    for path, sentence in (("missing", "No such file"), (".", "Is a directory")):
        with pytest.raises(UsageError, match=rf"cannot be read: {sentence}.*Check the path"):
            open_source([], str(tmp_path / path))
