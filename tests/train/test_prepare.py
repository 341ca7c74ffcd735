import csv
import errno
import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from fundus_core import phantoms
from fundus_core.preprocess import Pixels
from fundus_core.reading import read_labels
from fundus_train.cli import main
from fundus_train.commands import prepare as command


@pytest.fixture(scope="module")
def eyes() -> list[Pixels]:
    """Eight different eyes, 300 px."""
    return [resize(phantoms.render(seed).pixels, 300) for seed in range(8)]


@pytest.fixture
def two(tmp_path: Path, eyes: list[Pixels]) -> Path:
    """Two hospitals, "north" with a table and "south" with folders, and copies between them.

    Eyes 0 to 3 are north's, 2 to 6 south's. Eye 2 is larger in the south; on eye 3 they disagree.
    """
    table = "image_id,glaucoma,amd,patient_id,eye\n"
    table += "0.png,1,,7,left\n1.png,0,0,7,\n2.png,0,1,8,right\n3.png,1,0,9,\n"
    table += "gone.png,1,,7,\nlabelless.png,,,7,\n"
    for i in range(4):
        save(tmp_path / f"north/{i}.png", eyes[i])
    (tmp_path / "north/labels.csv").write_text(table)
    save(tmp_path / "south/normal/2.jpg", resize(eyes[2], 400))
    for name, i in (("normal/3.jpg", 3), ("glaucoma/4.jpg", 4), ("normal/5.jpg", 5), ("normal/6.jpg", 6)):
        save(tmp_path / "south" / name, eyes[i])
    (tmp_path / "south/glaucoma/text.jpg").write_text("no picture")
    return tmp_path


def resize(pixels: Pixels, width: int) -> Pixels:
    return np.asarray(cv2.resize(pixels, (width, width), interpolation=cv2.INTER_AREA), np.uint8)


def save(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1])


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["prepare", *map(str, arguments)])


def prepare(folder: Path, *options: object, output: str = "out") -> Result:
    """Merge north and south; it must succeed."""
    sources = (f"csv:{folder / 'north'}", f"folders:{folder / 'south'}")
    done = run(*sources, "--output", folder / output, *options)
    assert done.exit_code == 0, done.output
    return done


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row.pop("image_id"): row for row in csv.DictReader(file)}


def reasons(path: Path) -> Mapping[str, str]:
    return {image_id: row["reason"] for image_id, row in rows(path).items()}


def test_the_merged_table(two: Path) -> None:
    prepare(two, "--labels", "glaucoma,amd")
    table = read_labels(two / "out/labels.csv", ("glaucoma", "amd"))
    assert table.image_id == tuple(
        [f"north/{i}.png" for i in (0, 1)] + [f"south/{name}.jpg" for name in ("glaucoma/4", "normal/2")]
        + [f"south/normal/{i}.jpg" for i in (5, 6)]
    )  # fmt: skip
    assert all((two / image_id).is_file() for image_id in table.image_id)
    # the south knows nothing of amd or left and right, but has the larger copy of an eye that the north knows
    assert table.values.tolist() == [[1, -1], [0, 0], [1, -1], [0, 1], [0, -1], [0, -1]]
    assert table.patient_id == ("north/7", "north/7", "", "north/8", "", "")
    assert table.eye == ("left", "", "", "right", "", "")
    assert table.source == ("north",) * 2 + ("south",) * 4


def test_a_table_of_several_hospitals_keeps_them_apart(two: Path) -> None:
    table = two / "north/labels.csv"
    header, *lines = table.read_text().splitlines()
    hospitals = ["source", "A", "B", "", "A", "A", "A"]
    merged = [f"{line},{name}" for line, name in zip((header, *lines), hospitals, strict=True)]
    table.write_text("\n".join(merged))
    done = prepare(two, "--undersample", "north=1/0")
    kept = rows(two / "out/labels.csv")
    assert (kept["north/0.png"]["source"], kept["south/normal/5.jpg"]["source"]) == ("north-A", "south")
    assert "north/1.png" not in kept, "a data set is drawn from as a whole"
    assert done.stdout.splitlines()[1].startswith("north")


def test_every_image_is_in_one_table_with_a_reason_if_left_out(two: Path) -> None:
    done = prepare(two)
    dropped = reasons(two / "out/dropped.csv")
    assert dropped == {
        "north/2.png": "copy: the same picture as south/normal/2.jpg.",
        "north/3.png": "conflicting_labels: it is one picture with south/normal/3.jpg, but glaucoma differs.",
        "south/normal/3.jpg": "conflicting_labels: it is one picture with north/3.png, but glaucoma differs.",
        "north/gone.png": "vanished: The file was listed but is gone.",
        "north/labelless.png": "unlabelled: none of the chosen labels is known.",
        "south/glaucoma/text.jpg": "not_an_image: The content is no readable JPEG, PNG, TIFF or BMP.",
    }
    kept = rows(two / "out/labels.csv")
    assert len(kept) + len(dropped) == 6 + 6
    assert set(kept).isdisjoint(dropped)
    lines = done.stdout.splitlines()
    assert "north   6 -> 2  glaucoma 3/2 -> 1/1" in lines
    assert "south   6 -> 4  glaucoma 2/4 -> 1/3" in lines
    assert lines[3:] == [
        "left out  2  conflicting_labels",
        "left out  1  copy",
        "left out  1  not_an_image",
        "left out  1  unlabelled",
        "left out  1  vanished",
    ]
    next_command = f"fundus-train fit RECIPE --data {two / 'out/labels.csv'} --images {two} --output RUN"
    assert next_command in done.stderr


def test_patients_who_share_a_copy_become_one(two: Path) -> None:
    """Patients 7 and 8 both have the same file; 8's other image must follow."""
    (two / "north/copy.png").write_bytes((two / "north/0.png").read_bytes())
    with (two / "north/labels.csv").open("a") as file:
        file.write("copy.png,1,,8,\n")
    prepare(two)
    kept = rows(two / "out/labels.csv")
    assert kept["south/normal/2.jpg"]["patient_id"] == kept["north/1.png"]["patient_id"] == "north/7"
    assert reasons(two / "out/dropped.csv")["north/copy.png"] == "copy: the same bytes as north/0.png."


def test_nothing_of_a_test_set_is_left(two: Path, eyes: list[Pixels]) -> None:
    """The test set has eye 0 smaller, as another format; with it goes eye 1, which is of the same patient."""
    save(two / "test/deep/x.jpg", resize(eyes[0], 200))
    (two / "test/broken.jpg").write_text("no picture")
    done = prepare(two, "--against", two / "test")
    dropped = reasons(two / "out/dropped.csv")
    assert dropped["north/0.png"] == "in_test: a copy of an image of the test set."
    assert dropped["north/1.png"] == "patient_in_test: another image of this patient is in the test set."
    assert {row["source"] for row in rows(two / "out/labels.csv").values()} == {"south"}
    assert f"nothing was compared with the test image {two / 'test/broken.jpg'}: not_an_image" in done.stderr


def test_undersampling_is_exact_random_and_repeatable(two: Path) -> None:
    tables = []
    for output, seed in (("a", 0), ("b", 0), *((f"c{seed}", seed) for seed in range(1, 8))):
        prepare(two, "--undersample", "south=9/1", "--seed", seed, output=output)
        tables.append(list(rows(two / output / "labels.csv")))
    assert tables[0] == tables[1]
    assert len({tuple(table) for table in tables}) > 1
    for table in tables:
        assert sum(name.startswith("south/normal") for name in table) == 1
        assert {"south/glaucoma/4.jpg", "north/0.png", "north/1.png"} <= set(table)
    dropped = reasons(two / "a/dropped.csv").values()
    assert list(dropped).count("undersampled: 1 of 3 images with glaucoma = 0 were drawn.") == 2


def test_prepare_json_says_how_it_was_made(two: Path) -> None:
    prepare(two, "--seed", 5, "--undersample", "south=1/2")
    content = json.loads((two / "out/prepare.json").read_text())
    assert content["arguments"]["seed"] == 5
    assert content["arguments"]["draws"] == ["south=1/2"]
    assert content["arguments"]["sources"][0] == f"csv:{two / 'north'}"
    assert content["sources"]["south"]["found"] == {
        "images": 6,
        "labels": {"glaucoma": {"positive": 2, "negative": 4}},
    }
    assert content["sources"]["south"]["kept"]["labels"]["glaucoma"] == {"positive": 1, "negative": 2}
    assert content["sources"]["south"]["dropped"] == {
        "conflicting_labels": 1,
        "not_an_image": 1,
        "undersampled": 1,
    }
    assert {"fundus-triton", "numpy", "opencv-python-headless", "python"} <= set(content["versions"])


def test_folders_of_one_name_get_a_number(tmp_path: Path, eyes: list[Pixels]) -> None:
    for i, hospital in enumerate(("a", "b")):
        save(tmp_path / hospital / f"data/normal/{i}.png", eyes[i])
    sources = [f"folders:{tmp_path / hospital / 'data'}" for hospital in ("a", "b")]
    assert run(*sources, "--output", tmp_path / "out").exit_code == 0
    assert [row["source"] for row in rows(tmp_path / "out/labels.csv").values()] == ["data", "data-2"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("folder:north",), "There is no source kind 'folder'. Did you mean 'folders'?"),
        (("north",), "'north' is no source. Write KIND:PATH, such as csv:photos."),
        (("csv:",), "'csv:' is no source."),
        (("csv:gone",), "There is no file or folder '{folder}/gone'. Check the path."),
        (
            ("csv:north", "csv:north/labels.csv"),
            "{folder}/north is inside {folder}/north/labels",
        ),
        (("csv:north", "--labels", "glaucom"), "there is no column 'glaucom'. Did you mean 'glaucoma'?"),
        (("folders:south", "--labels", "glaucoma,amd"), "No source has the label 'amd'. Known: glaucoma."),
        (("folders:south", "--labels", ","), "--labels names no label."),
        (
            ("csv:north", "--undersample", "nort=1/2"),
            "no source 'nort' to undersample. Did you mean",
        ),
        (
            ("csv:north", "--undersample", "north=1"),
            "--undersample 'north=1' is unclear. Write SOURCE",
        ),
        (("csv:north", "--against", "nowhere"), "'nowhere' does not exist"),
        (("csv:north", "--against", "empty"), "--against empty holds no image. Check the path."),
        (("csv:north", "--against", "north", "--against", "empty"), "--against empty holds no image."),
        (("folders:unreadable",), "None of 1 images can be used; the first: empty: The file has 0 bytes."),
        (("csv:unlabelled",), "None of 1 images can be used; the first: unlabelled: none of the chosen"),
    ],
)
def test_a_wrong_call_is_a_sentence_and_leaves_nothing(
    two: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(two)
    for folder in ("empty", "unlabelled", "unreadable/normal"):
        (two / folder).mkdir(parents=True)
    (two / "unreadable/normal/a.jpg").touch()
    (two / "unlabelled/labels.csv").write_text("image_id,glaucoma\na.jpg,\n")
    before = sorted(two.rglob("*"))
    done = run(*arguments, "--output", "out")
    assert done.exit_code == 2, done.output
    assert sentence.format(folder=two) in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert sorted(two.rglob("*")) == before


def test_the_folder_where_one_stands_may_be_the_new_one(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (two / "here").mkdir()
    monkeypatch.chdir(two / "here")
    assert run("folders:../south", "--output", ".").exit_code == 0
    assert (two / "here/labels.csv").exists()


def test_a_table_that_is_there_is_not_touched(two: Path) -> None:
    (two / "out").mkdir()
    (two / "out/labels.csv").write_text("precious")
    done = run(f"folders:{two / 'south'}", "--output", two / "out")
    assert (done.exit_code, (two / "out/labels.csv").read_text()) == (2, "precious")
    assert "is there already. Remove it, or choose another --output." in done.output


def test_a_full_disk_is_a_sentence_and_leaves_nothing(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "labels.csv")

    monkeypatch.setattr(command, "_table", full)
    before = sorted(two.rglob("*"))
    done = run(f"folders:{two / 'south'}", "--output", two / "out")
    assert done.exit_code == 1
    assert "labels.csv: No space left on device. Nothing was written; mend this and run" in done.output
    assert sorted(two.rglob("*")) == before
