"""Stores that fsspec knows besides S3, by the one it keeps in memory, and what a missing library says."""

import sys
import threading
from importlib import import_module
from pathlib import Path

import fsspec
import pytest
from tests.client.reading import SECRET, contents, found, reason_of

from fundus_client.sources import open_source
from fundus_client.sources.store import Store
from fundus_core.errors import ImageError, MissingExtraError


def test_a_store_is_asked_about_many_listed_objects_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(8, timeout=30)

    def look(self: Store, key: str) -> ImageError:
        together.wait()
        return ImageError("vanished", "It is gone.")

    monkeypatch.setattr(Store, "look", look)
    (tmp_path / "list").write_text("".join(f"memory://eyes/{number}.jpg\n" for number in range(80)))
    assert [reason_of(ref) for ref in open_source([], str(tmp_path / "list"))] == ["vanished"] * 80


def test_another_store_is_walked_level_by_level_in_the_same_order() -> None:
    memory = fsspec.filesystem("memory")
    keys = ["a.jpg", "a/1.jpg", "a/b/2.jpg", "ab.jpg", "b/c/d/3.png"]
    memory.pipe({f"/eyes/{key}": key.encode() for key in (*keys, "a/notes.txt")})
    try:
        refs = found("memory://eyes")
        assert list(refs) == keys
        assert contents(refs.values()) == {key: key.encode() for key in keys}
        assert list(found("memory://eyes/*/b", "memory://eyes/b")) == ["a/b/2.jpg", "b/c/d/3.png"]
        memory.rm("/eyes/a/1.jpg")
        assert reason_of(refs["a/1.jpg"]) == "vanished"
    finally:
        memory.rm("/eyes", recursive=True)


def test_a_folder_that_cannot_be_listed_is_one_row_and_hides_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/eyes/{key}": b"x" for key in ("a.jpg", "shut/b.jpg", "z/c.jpg")})
    listing = type(memory).ls

    def refusing(self, path, **options):
        if path == "/eyes/shut":
            raise PermissionError(SECRET)
        return listing(self, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "ls", refusing)
        refs = found("memory://eyes")
    memory.rm("/eyes", recursive=True)
    assert list(refs) == ["a.jpg", "shut/", "z/c.jpg"]
    assert reason_of(refs["shut/"]) == "unreadable"
    assert refs["shut/"].stamp() == b""


@pytest.mark.parametrize("missing", ["fsspec", "s3fs"])
def test_a_missing_library_is_a_sentence(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(
        import_module("fsspec.registry")._registry, "s3", raising=False
    )  # loaded by an earlier test
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf"needs {missing}. .* 'fundus-triton\[s3\]'"):
        open_source(["s3://bucket/x"], None)
