"""Lists of paths; tests/client/test_stores.py has lists of addresses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.reading import contents, reason_of
from tests.core.test_files import fill

from fundus_client.sources import Source, open_source
from fundus_core.errors import UsageError

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


def listed(folder: Path, content: bytes) -> Source:
    (folder / "list").write_bytes(content)
    return open_source([], str(folder / "list"))


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
import sys
from pathlib import Path
from fundus_client.sources import open_source
def peak_mb(): return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before = peak_mb()
n = sum(1 for _ in open_source([], sys.argv[1]))
print(n, peak_mb() - before)
"""
    with (tmp_path / "list").open("w") as file:
        file.writelines(f"/data/{number:06}/{'photographs' * 20}.jpg\n" for number in range(100_000))
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
