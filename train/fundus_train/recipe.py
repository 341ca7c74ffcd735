"""A recipe: everything that decides an experiment, in one TOML file. An unknown key raises."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fundus_core.errors import RecipeError
from fundus_core.preprocess import PreprocessSpec
from fundus_core.schema import build
from fundus_core.views import VIEWS, views_named


@dataclass(frozen=True)
class Network:
    """A timm backbone. `pretrained`: start from ImageNet weights (timm's download, or `--weights`)."""

    architecture: str
    pretrained: bool = True
    dropout: float = 0.2


@dataclass(frozen=True)
class Split:
    """`test_size` (tenths, 0.1 to 0.9) is held out; the rest makes `folds` stratified folds, by patient."""

    test_size: float = 0.3
    folds: int = 4

    def __post_init__(self) -> None:
        if round(self.test_size * 10) not in range(1, 10) or round(self.test_size * 10, 6) % 1:
            raise RecipeError(f"test_size is {self.test_size}; choose tenths: 0.1, 0.2 … 0.9.")
        if self.folds < 2:
            raise RecipeError(f"folds is {self.folds}; cross-validation needs at least 2.")


@dataclass(frozen=True)
class Phantoms:
    """Synthetic images added to every fold's training part, never to a validation or test part."""

    count: int = 0
    first_seed: int = 1_000_000

    def __post_init__(self) -> None:
        if self.count < 0 or self.first_seed < 0:
            raise RecipeError(f"count is {self.count} and first_seed {self.first_seed}; choose 0 or more.")

    @property
    def seeds(self) -> range:
        """The seeds that are drawn."""
        return range(self.first_seed, self.first_seed + self.count)


@dataclass(frozen=True)
class Training:
    """The optimiser's settings: AdamW, linear warm-up over the first epoch, then a cosine to zero.

    `label_smoothing` is the report's asymmetric form: positive 1 - alpha, negative alpha / 2.
    """

    epochs: int = 10
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.0
    flips: bool = True
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise RecipeError("epochs must be at least 1 and batch_size at least 2 (batch normalisation).")
        if not 0 <= self.label_smoothing < 0.5:
            raise RecipeError(f"label_smoothing is {self.label_smoothing}; choose 0 up to 0.5.")


@dataclass(frozen=True)
class Recipe:
    """One experiment. `labels` are the K columns of the labels table that become outputs."""

    name: str
    network: Network
    seed: int = 0
    labels: tuple[str, ...] = ("glaucoma",)
    views: tuple[str, ...] = tuple(VIEWS)
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)
    split: Split = field(default_factory=Split)
    phantoms: Phantoms = field(default_factory=Phantoms)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        views_named(self.views)
        if not self.labels:
            raise RecipeError("labels is empty; name at least one column, such as labels = ['glaucoma'].")
        if self.phantoms.count and self.labels != ("glaucoma",):
            raise RecipeError("Phantoms are labelled for glaucoma only; set [phantoms] count = 0.")


def read_recipe(path: Path) -> Recipe:
    """Return the recipe in a TOML file.

    Raises:
        RecipeError: no such file, not TOML, an unknown key, or an impossible value.
    """
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe '{path}' cannot be read ({error}).") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"The recipe '{path}' is not TOML: {error}.") from None
    return build(Recipe, data, RecipeError, path.name)
