"""One photograph of a data set, and the words that data sets use for glaucoma."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

GLAUCOMA = ("glaucoma", "glaucomatous", "glaucoma_positive", "positive", "suspicious_glaucoma", "RG", "1")
NO_GLAUCOMA = ("normal", "healthy", "glaucoma_negative", "negative", "non_glaucoma", "NRG", "0")


@dataclass(frozen=True)
class Photograph:
    """One image file: its labels, or the reason why it cannot be used."""

    path: Path
    labels: Mapping[str, int] = field(default_factory=dict)  # 0 or 1; a name that is missing is not known
    patient_id: str = ""
    eye: str = ""  # "left", "right" or ""
    reason: str = ""  # "" or "code: sentence"
    source: str = ""  # where a table of several hospitals or cameras names its own


def classes_of(words: Iterable[str]) -> set[int]:
    """Return what those of `words` that are a class's name say: {1}, {0}, {0, 1} or nothing."""
    return {_CLASSES[plain] for plain in map(_plain, words) if plain in _CLASSES}


def _plain(word: str) -> str:
    """Write "Non-Glaucoma", "non_glaucoma" and "NonGlaucoma" alike."""
    return "".join(letter for letter in word.casefold() if letter.isalnum())


_CLASSES = {_plain(word): 1 for word in GLAUCOMA} | {_plain(word): 0 for word in NO_GLAUCOMA}
