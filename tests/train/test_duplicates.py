import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fundus_core import phantoms
from fundus_core.errors import LabelsError
from fundus_core.preprocess import Pixels, remove_margin
from fundus_core.sheet import read_sheet
from fundus_train import duplicates
from fundus_train.duplicates import Prints, find_copies, join_groups, take_prints


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    """Five different eyes, 400 px."""
    return [resize(phantoms.render(seed).pixels, 400) for seed in range(5)]


def resize(pixels: Pixels, width: int, height: int = 0) -> Pixels:
    size = (width, height or width)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def cropped(pixels: Pixels) -> Pixels:
    """Cut 2 % off the top and the left of the field."""
    field = remove_margin(pixels, 16)
    return field[len(field) // 50 :, len(field) // 50 :]


SAVED_ANEW: dict[str, tuple[str, Callable[[Pixels], Pixels]]] = {
    "quality 40": (".jpg", lambda pixels: pixels),
    "224 px": (".jpg", lambda pixels: resize(pixels, 224)),
    "another format": (".png", lambda pixels: pixels),
    "cropped": (".png", cropped),
    "margin": (".jpg", lambda pixels: np.pad(pixels, ((60, 10), (5, 90), (0, 0)))),
    "darker": (".jpg", lambda pixels: (pixels * 0.7).astype(np.uint8)),
    "squeezed": (".png", lambda pixels: resize(pixels, 400, 300)),
}
OTHER: dict[str, Callable[[Pixels], Pixels]] = {
    "mirrored": lambda pixels: pixels[:, ::-1],
    "upside down": lambda pixels: pixels[::-1],
    "quarter turn": lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


def write(path: Path, pixels: Pixels) -> Path:
    assert cv2.imwrite(str(path), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])
    return path


def prints_of(folder: Path, pictures: list[Pixels]) -> Prints:
    paths = [write(folder / f"{i}.png", pixels) for i, pixels in enumerate(pictures)]
    return take_prints(paths, folder, lambda done, total: None)


@pytest.mark.parametrize("name", SAVED_ANEW)
def test_a_picture_saved_anew_is_a_copy(tmp_path: Path, pictures: list[Pixels], name: str) -> None:
    suffix, change = SAVED_ANEW[name]
    paths = [write(tmp_path / f"{i}.png", pixels) for i, pixels in enumerate(pictures)]
    paths += [write(tmp_path / f"new_{i}{suffix}", change(pixels)) for i, pixels in enumerate(pictures)]
    copies = list(find_copies(take_prints(paths, tmp_path, lambda done, total: None)))
    assert sorted(copies) == [(i, i + len(pictures)) for i in range(len(pictures))]


@pytest.mark.parametrize("name", OTHER)
def test_another_eye_is_no_copy(tmp_path: Path, pictures: list[Pixels], name: str) -> None:
    prints = prints_of(tmp_path, [*pictures, *map(OTHER[name], pictures)])
    assert list(find_copies(prints)) == []


def test_the_same_bytes_are_a_copy_even_without_structure(tmp_path: Path) -> None:
    black = np.zeros((50, 50, 3), np.uint8)
    paths = [write(tmp_path / "a.png", black), tmp_path / "b.png", write(tmp_path / "c.png", black[:40])]
    paths[1].write_bytes(paths[0].read_bytes())
    prints = take_prints(paths, tmp_path, lambda done, total: None)
    assert list(find_copies(prints)) == [(0, 1)]
    assert prints.n_pixels.tolist() == [2500, 2500, 2000]


def test_unreadable_files_have_a_reason_and_no_copies(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no picture")
    paths = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "gone.png", tmp_path / "gone.png"]
    ticks: list[tuple[int, int]] = []
    prints = take_prints(paths, tmp_path, lambda done, total: ticks.append((done, total)))
    assert [reason.partition(":")[0] for reason in prints.failed] == ["not_an_image"] * 2 + ["vanished"] * 2
    assert list(find_copies(prints)) == []
    assert ticks == [(done, 4) for done in range(1, 5)]


def test_details_lie_on_the_disk_and_leave_nothing_behind(tmp_path: Path, pictures: list[Pixels]) -> None:
    prints = prints_of(tmp_path, pictures[:2])
    assert isinstance(prints.details, np.memmap)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png"]


def test_a_full_disk_stops_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def take_print(path: Path) -> duplicates._Print:
        read.append(path)
        time.sleep(0.005)
        return duplicates._Print()

    full = Path("/dev/full").open("wb", 0)  # noqa: SIM115  take_prints closes it
    monkeypatch.setattr(duplicates, "_take_print", take_print)
    monkeypatch.setattr(duplicates.tempfile, "TemporaryFile", lambda **place: full)
    with pytest.raises(OSError, match="No space left"):
        take_prints([tmp_path] * 400, tmp_path, lambda done, total: None)
    assert len(read) < 400


def test_blocks_find_what_one_comparison_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (40, 256), np.uint8)
    for i in range(0, 40, 4):  # every fourth differs from the next one in 72 bits, the one after in 73
        bits[i + 1], bits[i + 2] = bits[i], bits[i]
        bits[i + 1, :72] ^= 1
        bits[i + 2, -73:] ^= 1
    monkeypatch.setattr(duplicates, "BLOCK", 7)
    expected = [(i, i + 1) for i in range(0, 40, 4)]
    assert sorted(duplicates.near_hashes(np.packbits(bits, axis=1))) == expected


def test_groups_are_joined_through_a_chain() -> None:
    number = np.array([5, 5, 6, 7, 8])
    joined = join_groups(number, [(1, 2), (2, 3)])
    assert len(set(joined[:4].tolist())) == 1
    assert joined[4] not in joined[:4]
    assert number.tolist() == [5, 5, 6, 7, 8]


def test_known_copies_and_look_alikes_of_real_photographs(photographs: Path, tmp_path: Path) -> None:
    """HYGD: the copies that its table names, retakes of one eye, and two eyes with dust on one lens."""
    folder = photographs / "hygd"
    if not folder.is_dir():
        pytest.skip(f"no HYGD at {folder}")
    sheet = read_sheet(folder / "labels.csv", LabelsError)
    pairs = zip(sheet.texts("exact_duplicate_of"), sheet.texts("image_id"), strict=True)
    known = [pair for pair in pairs if pair[0]]
    look_alikes = [f"images/{name}.jpg" for name in ("135_4", "150_4", "55_1", "55_2", "17_3", "17_5")]
    names = [*(name for pair in known for name in pair), *look_alikes]
    prints = take_prints([folder / name for name in names], tmp_path, lambda done, total: None)
    assert {(names[a], names[b]) for a, b in find_copies(prints)} == set(known)
