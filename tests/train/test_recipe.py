import re
import tomllib
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from fundus_core.errors import RecipeError
from fundus_train.experiments import flatten
from fundus_train.recipe import Augment, Phantoms, PseudoLabels, Recipe, Split, Training, read_recipe

FOLDER = Path(__file__).parents[2] / "train" / "recipes"
RECIPES = sorted(FOLDER.rglob("*.toml"))
NAMES = [path.relative_to(FOLDER).as_posix() for path in RECIPES]
TRIES = [path.stem for path in RECIPES if path.parent.name == "unseen"]
DOCS = (Path(__file__).parents[2] / "docs" / "reference-ensemble.md").read_text()
# each experiment of the report: the one that it extends, and all that differs
REPORT: dict[str, tuple[str, dict[str, Any]]] = {
    "001": ("000", {"training.label_smoothing": 0.1}),
    "002": ("000", {"training.label_smoothing": 0.05}),
    "003": ("000", {"training.label_smoothing": 0.15}),
    "004": ("000", {"augment.augmix": 5}),
    "005": ("000", {"augment.augmix": 10}),
    "006": ("000", {"pseudo_labels.rounds": 1}),
    "010": ("000", {"training.batch_size": 64}),
    "015": ("010", {"network.architecture": "efficientnet_b2"}),
    "016": ("010", {"network.architecture": "tf_efficientnet_b6"}),
    "017": ("010", {"network.architecture": "resnext50_32x4d"}),
    "027": ("010", {"network.architecture": "resnest50d"}),
    "028": ("010", {"network.architecture": "deit_base_patch16_224", "preprocess.size_px": 224}),
    "029": ("027", {"training.label_smoothing": 0.1}),
    "0p0": ("000", {"split.test_size": 0.9}),
    **{f"0p{rounds}": ("0p0", {"pseudo_labels.rounds": rounds}) for rounds in range(1, 7)},
    "focal": ("000", {"training.loss": "focal"}),
    "scheduler": ("000", {"training.scheduler": "cosine"}),
    "centre_crop": ("000", {"preprocess.centre_crop": 0.9}),
    "vessels": ("000", {"preprocess.erase_vessels": True}),
    "no_tta": ("000", {"views": "identity"}),
    "image_split": ("000", {"split.by_patient": False}),
}
SMALLEST = 'name = "x"\n[network]\narchitecture = "resnet18"\n'


def recipe_of(text: str, folder: Path) -> Recipe:
    path = folder / "mine.toml"
    path.write_text(text)
    return read_recipe(path)


def test_only_a_name_and_an_architecture_are_needed(tmp_path: Path) -> None:
    recipe = recipe_of(SMALLEST, tmp_path)
    assert (recipe.name, recipe.network.architecture) == ("x", "resnet18")
    assert recipe.labels == ("glaucoma",)
    assert recipe.views == ("identity", "hflip", "vflip", "both")
    assert (recipe.split, recipe.phantoms, recipe.training) == (Split(0.3, 4), Phantoms(), Training())
    assert (recipe.augment, recipe.pseudo_labels) == (Augment(flips=True), PseudoLabels(rounds=0))


def test_a_recipe_takes_over_what_it_does_not_say_table_by_table(tmp_path: Path) -> None:
    (tmp_path / "first.toml").write_text("seed = 3\n" + SMALLEST + "[training]\nepochs = 7\nbatch_size = 8")
    (tmp_path / "second.toml").write_text('extends = "first.toml"\nname = "y"\n[training]\nepochs = 9')
    recipe = recipe_of('extends = "second.toml"\n[augment]\naugmix = 3', tmp_path)
    assert (recipe.name, recipe.seed, recipe.network.architecture) == ("y", 3, "resnet18")
    assert (recipe.training, recipe.augment) == (Training(epochs=9, batch_size=8), Augment(augmix=3))


def test_the_extended_recipe_is_looked_for_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "base.toml").write_text(SMALLEST)
    assert recipe_of('extends = "../base.toml"\nseed = 4', tmp_path / "inner").seed == 4


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('extends = "mine.toml"', r"mine.toml' extends itself\. Take one 'extends' out"),
        (
            'extends = "nowhere.toml"',
            r"The recipe '.*nowhere.toml' cannot be read \(.*\)\. Correct 'extends' in '.*mine.toml'",
        ),
        ('extends = "base.toml"\nname = 3', "mine.toml.name: expected text, got 3"),
        (
            'extends = "base.toml"\nnetwork = 3',
            "mine.toml.network: expected a table with keys of its own .*architecture.*, got 3",
        ),
        ('extends = "loop.toml"', "extends itself"),
    ],
)
def test_an_extends_that_leads_nowhere_says_so(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(SMALLEST)
    (tmp_path / "loop.toml").write_text('extends = "mine.toml"')
    with pytest.raises(RecipeError, match=sentence):
        recipe_of(text, tmp_path)


def test_the_committed_recipes_are_found() -> None:
    assert "reference.toml" in NAMES
    assert {path.stem for path in (FOLDER / "report").iterdir()} == REPORT.keys() | {"000"}


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_recipe_can_be_read_and_names_its_command_on_top(name: str) -> None:
    recipe = read_recipe(FOLDER / name)
    assert recipe.name
    lines = (FOLDER / name).read_text().splitlines()
    header = list(takewhile(lambda line: line.startswith("#"), lines))
    assert [
        line for line in header if re.match(rf"#   fundus-train (fit|unseen) train/recipes/{name} ", line)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_recipe_knows_its_own_keys_only(name: str) -> None:
    keys = tomllib.loads((FOLDER / name).read_text()).keys()
    assert keys <= Recipe.__dataclass_fields__.keys() | {"extends"}


@pytest.mark.parametrize("name", REPORT)
def test_an_experiment_of_the_report_changes_only_what_it_is_about(name: str) -> None:
    base, changes = REPORT[name]
    path = FOLDER / "report" / f"{name}.toml"
    assert tomllib.loads(path.read_text())["extends"] == f"{base}.toml"
    mine = flatten(asdict(read_recipe(path)))
    theirs = flatten(asdict(read_recipe(path.with_name(f"{base}.toml"))))
    assert {key: mine[key] for key in mine if mine[key] != theirs[key]} == {"name": name, **changes}


@pytest.mark.parametrize("name", ["000", *REPORT])
def test_an_experiment_of_the_report_is_called_by_its_number_and_says_what_to_expect(name: str) -> None:
    path = FOLDER / "report" / f"{name}.toml"
    assert read_recipe(path).name == name
    assert f"--output runs/{name}\n" in path.read_text()
    assert "\n# Report: " in path.read_text()


@pytest.mark.parametrize("name", TRIES)
def test_a_try_on_unseen_cameras_has_the_figures_of_the_docs_on_top(name: str) -> None:
    header = (FOLDER / "unseen" / f"{name}.toml").read_text()
    figures = re.search(
        r"\n# Left out(?:, by an earlier preprocessing)?: airogs-light (.+), hygd (.+), odir-lowres (.+)\.\n",
        header,
    )
    row = re.search(rf"^\| `{name}`: [^|]+ \| (.+) \| (.+) \| (.+) \|$", DOCS.replace("**", ""), re.MULTILINE)
    assert figures
    assert row
    assert figures.groups() == row.groups()
    auc = r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]"
    assert all(re.fullmatch(auc, figure) for figure in figures.groups())
    if name != "base":
        change = r"[+-]0\.\d{3} \[[+-]0\.\d{3}, [+-]0\.\d{3}\]"
        assert re.search(rf"^\| `{name}` (\| {change} ){{3}}\|$", DOCS.replace("**", ""), re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epochs = 3\n" + SMALLEST, r"mine.toml: unknown key 'epochs'\."),
        ("sead = 3\n" + SMALLEST, r"mine.toml: unknown key 'sead'\. Did you mean 'seed'\?"),
        (SMALLEST + "[traning]\n", r"unknown key 'traning'\. Did you mean 'training'\?"),
        (
            SMALLEST + "[training]\nepoch = 3",
            r"mine.toml.training: unknown key 'epoch'\. Did you mean 'epochs'\?",
        ),
        (SMALLEST + "[preprocess]\nsize = 64", r"mine.toml.preprocess: unknown key 'size'\. .*'size_px'"),
        ('name = "x"', "mine.toml: the key 'network' is missing"),
        (
            'name = "x"\nnetwork = "resnet18"',
            "network: expected a table with keys of its own .*, got 'resnet18'",
        ),
        ('name = "x"\n[network]\n', "mine.toml.network: the key 'architecture' is missing"),
        (SMALLEST + "pretrained = 1", "network.pretrained: expected true or false, got 1"),
        (SMALLEST + "[training]\nepochs = 2.5", r"training.epochs: expected a whole number, got 2\.5"),
        (SMALLEST + '[training]\nepochs = "2"', "training.epochs: expected a whole number, got '2'"),
        (SMALLEST + "[training]\nepochs = 0", "mine.toml.training: epochs must be at least 1"),
        (SMALLEST + "[training]\nbatch_size = 1", "batch_size at least 2"),
        (SMALLEST + "[training]\nlabel_smoothing = 0.5", r"label_smoothing is 0\.5; choose 0 up to 0\.5"),
        (
            SMALLEST + '[training]\nprecision = "64"',
            "expected one of '32-true', 'bf16-mixed', '16-mixed', got '64'",
        ),
        (SMALLEST + "[split]\ntest_size = 0.25", r"test_size is 0\.25; choose tenths"),
        (SMALLEST + "[split]\ntest_size = nan", r"test_size is nan; choose tenths"),
        (SMALLEST + "[split]\ntest_size = 1.0", r"test_size is 1\.0; choose tenths"),
        (SMALLEST + "[split]\ntest_size = 0", r"test_size is 0\.0; choose tenths"),
        (SMALLEST + "[split]\nfolds = 1", "folds is 1; cross-validation needs at least 2"),
        (SMALLEST + "[phantoms]\ncount = -1", "count is -1"),
        (SMALLEST + "[training]\naccumulate = 0", "accumulate must be at least 1"),
        (SMALLEST + "[training]\npatience = -1", "patience is -1; choose 0 or more"),
        (SMALLEST + "[training]\nbalance = 1.5", "balance must be 0 to 1"),
        (SMALLEST + "[training]\nema_decay = 1.0", "ema_decay 0 up to 1"),
        (SMALLEST + "[training]\nepochs = 3\nswa_epochs = 4", "swa_epochs must be 0 to epochs"),
        (SMALLEST + "[training]\nema_decay = 0.9\nswa_epochs = 1", "0 where there is an ema_decay"),
        (SMALLEST + '[training]\nloss = "dice"', "training.loss: expected one of 'bce', 'focal', got 'dice'"),
        (SMALLEST + '[training]\nscheduler = "plateau"', "expected one of 'cosine', 'step', 'none'"),
        (SMALLEST + "[augment]\naugmix = 11", "augmix is 11; choose a severity of 0 to 10"),
        (SMALLEST + "[augment]\njpeg = 100", "jpeg is 100; choose 0 to 99"),
        (SMALLEST + "[augment]\nscale = -0.1", r"scale is -0\.1; choose 0 or more"),
        (SMALLEST + "[augment]\nflip = true", r"augment: unknown key 'flip'\. Did you mean 'flips'\?"),
        (SMALLEST + "[pseudo_labels]\nrounds = -1", "rounds must be 0 or more"),
        (SMALLEST + "[pseudo_labels]\npositive = 0.01", "0 <= negative < positive <= 1"),
        ("labels = []\n" + SMALLEST, "labels is empty"),
        ('labels = "glaucoma"\n' + SMALLEST, "labels: expected a list, each item text, got 'glaucoma'"),
        ('labels = ["amd", "amd"]\n' + SMALLEST, "labels names 'amd' twice"),
        ('labels = ["amd", " "]\n' + SMALLEST, "a label without a name"),
        ('name = " "\n[network]\narchitecture = "resnet18"\n', "name is empty"),
        ("seed = -1\n" + SMALLEST, "seed is -1; choose 0 to 4294967295"),
        ("seed = 4294967296\n" + SMALLEST, "seed is 4294967296; choose"),
        (SMALLEST + "dropout = 1.0", r"dropout is 1\.0; choose 0 up to 1"),
        (SMALLEST + "dropout = -0.1", r"dropout is -0\.1; choose"),
        (SMALLEST + "dropout = nan", "dropout is nan; choose"),
        (SMALLEST + "[training]\nlearning_rate = 0", r"learning_rate is 0\.0; choose above 0"),
        (SMALLEST + "[training]\nlearning_rate = -1e-3", r"learning_rate is -0\.001; choose"),
        (SMALLEST + "[training]\nlearning_rate = nan", "learning_rate is nan; choose"),
        (SMALLEST + "[training]\nlearning_rate = inf", "learning_rate is inf; choose"),
        (SMALLEST + "[training]\nweight_decay = -1.0", r"weight_decay is -1\.0; choose 0 or more"),
        (SMALLEST + "[training]\nfocal_gamma = nan", "focal_gamma is nan; choose 0 or more"),
        (SMALLEST + "[training.loss]\nbce = 1", "training.loss: expected one of 'bce', 'focal', got a table"),
        ('views = ["up"]\n' + SMALLEST, "views are"),
        (
            'labels = ["amd"]\n' + SMALLEST + "[phantoms]\ncount = 1",
            "Phantoms are labelled for glaucoma only",
        ),
        ("name = x", "mine.toml' is not TOML"),
        (SMALLEST + SMALLEST, "mine.toml' is not TOML"),
    ],
)
def test_a_recipe_that_does_not_fit_says_where(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=sentence):
        recipe_of(text, tmp_path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "no text"])
def test_a_recipe_that_cannot_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"The recipe '.*mine.toml' cannot be read"):
        read_recipe(path)


def test_every_tenth_is_a_test_size() -> None:
    assert [Split(test_size=tenth / 10).test_size for tenth in range(1, 10)] == [t / 10 for t in range(1, 10)]
