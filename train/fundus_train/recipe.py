"""A recipe: everything that decides an experiment, in one TOML file. An unknown key raises."""

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fundus_core.errors import RecipeError
from fundus_core.preprocess import FIRST_REVISION, PreprocessSpec
from fundus_core.schema import build, check_least
from fundus_core.views import VIEWS, views_named

EXTENDS = "extends"
MAX_SEED = 2**32 - 1  # what the shuffle of the split takes
SHARES = ("shift", "field_edge", "brightness", "contrast", "vignette")  # of Augment


@dataclass(frozen=True)
class Network:
    """A timm backbone. `pretrained`: start from ImageNet weights (timm's download, or `--weights`)."""

    architecture: str
    pretrained: bool = True
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout is {self.dropout}; choose 0 up to 1.")


@dataclass(frozen=True)
class Split:
    """`test_size` (tenths, 0.1 to 0.9) is held out; the rest makes `folds` stratified folds.

    `by_patient` keeps the images of a patient in one part; without it images are split one by one, as in the
    report, and the figures come out too good.
    """

    test_size: float = 0.3
    folds: int = 4
    by_patient: bool = True

    def __post_init__(self) -> None:
        if self.test_size not in [tenths / 10 for tenths in range(1, 10)]:
            raise RecipeError(f"test_size is {self.test_size}; choose tenths: 0.1, 0.2 … 0.9.")
        if self.folds < 2:
            raise RecipeError(f"folds is {self.folds}; cross-validation needs at least 2.")


@dataclass(frozen=True)
class Phantoms:
    """Synthetic images added to every fold's training part, never to a validation or test part."""

    count: int = 0
    first_seed: int = 1_000_000

    def __post_init__(self) -> None:
        check_least(self, ("count", "first_seed"), 0, RecipeError)

    @property
    def seeds(self) -> range:
        """The seeds that are drawn."""
        return range(self.first_seed, self.first_seed + self.count)


@dataclass(frozen=True)
class Augment:
    """How far a training image may be changed. Each size is drawn anew for every image; 0 switches it off.

    Args:
        flips: one of the four test-time views.
        augmix: severity of AugMix, 0 to 10.
        rotation_deg: turn to either side, up to this.
        scale: enlarge or shrink by up to this factor minus 1 (0.3: 1 / 1.3 to 1.3).
        shift: move by up to this share of the side.
        field_edge: cut off one side as the edge of a field does, in this share of the images, up to halfway
            to the centre.
        brightness: change by up to this share of full scale.
        contrast: multiply differences to the mean by 1 - this to 1 + this.
        gamma: raise to the power of up to 1 + this, or its inverse.
        colour: multiply each channel by up to 1 + this, or its inverse: colour temperature and tint.
        vignette: darken the edge by up to this share.
        blur_px: Gaussian blur of up to this standard deviation.
        jpeg: compress with a quality down to 100 minus this.
    """

    flips: bool = True
    augmix: int = 0
    rotation_deg: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    field_edge: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    colour: float = 0.0
    vignette: float = 0.0
    blur_px: float = 0.0
    jpeg: int = 0

    def __post_init__(self) -> None:
        if self.augmix not in range(11):
            raise RecipeError(f"augmix is {self.augmix}; choose a severity of 0 to 10.")
        if self.jpeg not in range(100):
            raise RecipeError(f"jpeg is {self.jpeg}; choose 0 to 99, taken from a quality of 100.")
        check_least(self, vars(self), 0, RecipeError)
        for name in SHARES:
            if vars(self)[name] > 1:
                raise RecipeError(f"{name} is {vars(self)[name]}; choose 0 to 1.")


@dataclass(frozen=True)
class Training:
    """The optimiser's settings; AdamW.

    Args:
        epochs: passes over as many images as the training part has.
        batch_size: images a step; `accumulate` steps make one update of the weights.
        scheduler: "cosine": linear over the first epoch, then half a cosine to 0; "step": a tenth after two
            thirds; "none": constant.
        loss: binary cross-entropy, or focal loss (Lin et al. 2017) with `focal_gamma`.
        label_smoothing: the report's asymmetric form: positive 1 - alpha, negative alpha / 2.
        balance: 0 draws every image once an epoch; 1 every combination of source and labels equally often;
            between them, a group of n images gets a share that grows with n ** (1 - balance).
        ema_decay: keep the exponential moving average of the weights, with this decay a step.
        swa_epochs: keep the mean of the weights after each of the last epochs (Izmailov et al. 2018).
        patience: stop after so many epochs without a better validation AUC and keep the best epoch's weights;
            0 trains to the end. AUC(CV) then chooses its own epoch, and is somewhat too good.
        deterministic: let PyTorch refuse operations that give another result each time, on a GPU.
    """

    epochs: int = 10
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    scheduler: Literal["cosine", "step", "none"] = "cosine"
    loss: Literal["bce", "focal"] = "bce"
    focal_gamma: float = 2.0
    label_smoothing: float = 0.0
    balance: float = 0.0
    ema_decay: float = 0.0
    swa_epochs: int = 0
    patience: int = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise RecipeError("epochs must be at least 1 and batch_size at least 2 (batch normalisation).")
        if self.accumulate < 1:
            raise RecipeError("accumulate must be at least 1.")
        if not 0 < self.learning_rate < math.inf:
            raise RecipeError(f"learning_rate is {self.learning_rate}; choose above 0, such as 0.001.")
        check_least(self, ("weight_decay", "patience", "focal_gamma"), 0, RecipeError)
        if not 0 <= self.label_smoothing < 0.5:
            raise RecipeError(f"label_smoothing is {self.label_smoothing}; choose 0 up to 0.5.")
        if not 0 <= self.balance <= 1 or not 0 <= self.ema_decay < 1:
            raise RecipeError("balance must be 0 to 1 and ema_decay 0 up to 1.")
        if not 0 <= self.swa_epochs <= self.epochs or (self.swa_epochs and self.ema_decay):
            raise RecipeError("swa_epochs must be 0 to epochs, and 0 where there is an ema_decay.")


@dataclass(frozen=True)
class PseudoLabels:
    """Rounds of pseudo-labelling: scores from `positive` up or `negative` down become labels 1 and 0."""

    rounds: int = 0
    positive: float = 0.98
    negative: float = 0.02

    def __post_init__(self) -> None:
        if self.rounds < 0 or not 0 <= self.negative < self.positive <= 1:
            raise RecipeError("rounds must be 0 or more, and 0 <= negative < positive <= 1.")


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
    augment: Augment = field(default_factory=Augment)
    training: Training = field(default_factory=Training)
    pseudo_labels: PseudoLabels = field(default_factory=PseudoLabels)

    def __post_init__(self) -> None:
        views_named(self.views)
        if not self.name.strip():
            raise RecipeError("name is empty; choose one, by which tables will call the run.")
        if not 0 <= self.seed <= MAX_SEED:
            raise RecipeError(f"seed is {self.seed}; choose 0 to {MAX_SEED}.")
        _check_labels(self.labels)
        if self.phantoms.count and self.labels != ("glaucoma",):
            raise RecipeError("Phantoms are labelled for glaucoma only; set [phantoms] count = 0.")


def _check_labels(labels: tuple[str, ...]) -> None:
    if not labels:
        raise RecipeError("labels is empty; name at least one column, such as labels = ['glaucoma'].")
    if not all(label.strip() for label in labels):
        raise RecipeError("labels has a label without a name; write the name of a column.")
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise RecipeError(f"labels names '{twice[0]}' twice; name each column once.")


def read_recipe(path: Path) -> Recipe:
    """Return the recipe in a TOML file. `extends = "other.toml"` takes over what the file doesn't say itself.

    Raises:
        RecipeError: no such file, not TOML, an unknown key, or an impossible value.
    """
    return build(Recipe, _read(path, ()), RecipeError, path.name)


def as_recorded(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's content as a run recorded it, with the revision of preprocessing that it had."""
    return recipe | {"preprocess": FIRST_REVISION | recipe.get("preprocess", {})}


def _read(path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in readers:
        raise RecipeError(f"The recipe '{path}' extends itself. Take one 'extends' out.")
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        hint = f"Correct 'extends' in '{readers[-1]}'." if readers else "Check the path."
        raise RecipeError(f"The recipe '{path}' cannot be read ({error}). {hint}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"The recipe '{path}' is not TOML: {error}.") from None
    if EXTENDS not in data:
        return data
    base = _read(path.parent / str(data.pop(EXTENDS)), (*readers, path.resolve()))
    return _merged(base, data)


def _merged(base: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with what `data` says on top, table by table."""
    both = {key for key in base.keys() & data.keys() if isinstance(base[key], dict)}
    tables = {key: _merged(base[key], data[key]) for key in both if isinstance(data[key], dict)}
    return base | data | tables
