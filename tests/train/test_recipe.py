import tomllib
from pathlib import Path

import pytest

from fundus_core.errors import RecipeError
from fundus_train.recipe import Phantoms, Recipe, Split, Training, read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "train" / "recipes").glob("*.toml"))
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


def test_the_committed_recipes_are_found() -> None:
    assert "reference.toml" in [path.name for path in RECIPES]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_committed_recipe_can_be_read_and_names_its_command_on_top(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name
    header = path.read_text().split(f"name = {recipe.name!r}".replace("'", '"'))[0]
    assert all(line.startswith("#") or not line for line in header.splitlines())
    assert f"fundus-train fit train/recipes/{path.name} " in header


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_committed_recipe_says_nothing_twice(path: Path) -> None:
    assert tomllib.loads(path.read_text()).keys() <= Recipe.__dataclass_fields__.keys()


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
        ('name = "x"\nnetwork = "resnet18"', "network: expected Network, got 'resnet18'"),
        ('name = "x"\n[network]\n', "mine.toml.network: the key 'architecture' is missing"),
        (SMALLEST + "pretrained = 1", "network.pretrained: expected bool, got 1"),
        (SMALLEST + "[training]\nepochs = 2.5", r"training.epochs: expected int, got 2\.5"),
        (SMALLEST + '[training]\nepochs = "2"', "training.epochs: expected int, got '2'"),
        (SMALLEST + "[training]\nepochs = 0", "mine.toml.training: epochs must be at least 1"),
        (SMALLEST + "[training]\nbatch_size = 1", "batch_size at least 2"),
        (SMALLEST + "[training]\nlabel_smoothing = 0.5", r"label_smoothing is 0\.5; choose 0 up to 0\.5"),
        (
            SMALLEST + '[training]\nprecision = "64"',
            "expected one of '32-true', 'bf16-mixed', '16-mixed', got '64'",
        ),
        (SMALLEST + "[split]\ntest_size = 0.25", r"test_size is 0\.25; choose tenths"),
        (SMALLEST + "[split]\ntest_size = 1.0", r"test_size is 1\.0; choose tenths"),
        (SMALLEST + "[split]\ntest_size = 0", r"test_size is 0\.0; choose tenths"),
        (SMALLEST + "[split]\nfolds = 1", "folds is 1; cross-validation needs at least 2"),
        (SMALLEST + "[phantoms]\ncount = -1", "count is -1"),
        ("labels = []\n" + SMALLEST, "labels is empty"),
        ('labels = "glaucoma"\n' + SMALLEST, "labels: expected tuple"),
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
