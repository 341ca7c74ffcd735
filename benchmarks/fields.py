"""How much of an eye a picture shows: fit the rules of `fundus_core.disc`, and say how good they are.

    python benchmarks/fields.py LABELS IMAGES [--count 300]

LABELS is a table of image_id and source, IMAGES the folder that the ids are relative to. Of `--count` whole
fields of each source parts are taken whose size is known, so no label is needed:
- cropped: squares around the disc, and squares with the disc anywhere;
- round: the whole fields, and what a camera would have seen that sees less.

For both rules, the errors of the natural logarithm of the size are printed, each source judged by a rule that
was fitted on the others; and the weights that the rule in `fundus_core.disc` has, fitted on all of them.
Written to benchmarks/results/.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import command_line, write_results
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from fundus_core.disc import CROPPED, ROUND, Disc, SizeRule, rule_of, shares
from fundus_core.files import read_encoded
from fundus_core.images import DEFAULT_LIMITS, decode_reduced
from fundus_core.lit import MARGIN_LEVEL
from fundus_core.overview import OVERVIEW_PX, overview
from fundus_core.preprocess import Pixels, crop_around, keep_circle, remove_margin
from fundus_core.reading import read_labels

Floats = NDArray[np.float64]
BESIDE = 0.02  # of the field: whoever crops does not hit the disc's centre
INSIDE = 0.08  # of the field, that a disc takes with its surroundings
RIDGE = 1.0
WRONG = 0.35  # of the logarithm: beyond the changes of scale that training makes
RULES = {"cropped": CROPPED, "round": ROUND}

Part = tuple[Pixels, float]  # a picture, and the share of the field's diameter that its longer side shows


@dataclass(frozen=True)
class Seen:
    """What a rule sees of N pictures (N, 2 K), the logarithms of their sizes (N,), kinds and sources."""

    shares: Floats
    truth: Floats
    kind: NDArray[np.str_]
    source: NDArray[np.str_]


def around(field: Pixels, disc: Disc, rng: Generator) -> Part:
    """Cut a square around the disc."""
    share = float(np.exp(rng.uniform(*np.log((0.22, 0.8)))))
    return crop_around(field, _beside(disc, BESIDE, rng), share), share


def anywhere(field: Pixels, disc: Disc, rng: Generator) -> Part:
    """Cut a square within the field that holds the disc somewhere."""
    share = float(np.exp(rng.uniform(*np.log((0.4, 0.75)))))
    place = _beside(disc, share / 2 - INSIDE, rng)
    least = 0.45 * share
    inside = Disc(*(float(np.clip(at, least, 1 - least)) for at in (place.x, place.y)))
    return crop_around(field, inside, share), share


def whole(field: Pixels, disc: Disc, rng: Generator) -> Part:
    """Leave the field as it is."""
    return field, 1.0


def narrow(field: Pixels, disc: Disc, rng: Generator) -> Part:
    """Show what a camera sees whose field is 0.55 to 0.9 as wide."""
    return seen_by(field, disc, float(rng.uniform(0.55, 0.9)), float(rng.uniform(0, 1)))


def seen_by(field: Pixels, disc: Disc, share: float, towards: float) -> Part:
    """Show what a camera sees whose field is `share` as wide, `towards` the middle (1) or the disc (0)."""
    away = towards * np.array([0.5 - disc.x, 0.5 - disc.y])
    away *= min(1, 0.45 * share / max(1e-9, float(np.hypot(*away))))  # the disc stays inside
    seen = keep_circle(crop_around(field, Disc(disc.x + away[0], disc.y + away[1]), share))
    shown = remove_margin(seen, MARGIN_LEVEL)
    return shown, share * max(shown.shape[:2]) / max(seen.shape[:2])


KINDS: dict[str, dict[str, Callable[[Pixels, Disc, Generator], Part]]] = {
    "cropped": {"around": around, "anywhere": anywhere},
    "round": {"whole": whole, "narrow": narrow},
}


def _beside(disc: Disc, reach: float, rng: Generator) -> Disc:
    return Disc(disc.x + rng.uniform(-reach, reach), disc.y + rng.uniform(-reach, reach))


def main() -> None:
    """See, fit, print, write."""
    arguments = parse()
    fields = list(whole_fields(arguments))
    content: dict[str, object] = {"n_fields": len(fields)}
    for name, rule in RULES.items():
        seen = look(name, rule, fields)
        everything = np.ones(len(seen.truth), bool)
        content[name] = {"errors": errors(seen, rule), "weights": fitted(seen, everything)}
    print(json.dumps(content, indent=2))
    write_results("fields", content)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__)
    parser.add_argument("labels", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=300, help="fields of each source")
    return parser.parse_args()


def whole_fields(arguments: argparse.Namespace) -> Iterator[tuple[str, Pixels, Disc]]:
    """Yield the source, the picture and the disc of round fields, each of them taken for a whole one."""
    table, rng = read_labels(arguments.labels), default_rng(1)
    sources = np.array(table.source)
    for source in np.unique(sources):
        own = np.flatnonzero(sources == source)
        for i in rng.choice(own, min(arguments.count, len(own)), replace=False):
            data = read_encoded(arguments.images / table.image_id[i], DEFAULT_LIMITS)
            pixels, _ = decode_reduced(data, DEFAULT_LIMITS, 2 * OVERVIEW_PX)
            field = remove_margin(pixels, MARGIN_LEVEL)
            if rule_of(overview(field)) is ROUND:
                yield str(source), field, whole_disc(field)


def whole_disc(field: Pixels) -> Disc:
    """Return the disc of a field that is known to be whole."""
    return ROUND.places(overview(field))[0].disc


def look(name: str, rule: SizeRule, fields: list[tuple[str, Pixels, Disc]]) -> Seen:
    """Return what a rule sees of the parts of all fields that it is for."""
    rng, rows = default_rng(0), []
    for source, field, disc in fields:
        for kind, cut in KINDS[name].items():
            picture, share = cut(field, disc, rng)
            small = overview(picture)
            if rule_of(small) is rule:
                rows.append((shares(rule.places(small)), -np.log(share), kind, source))
    seen, truth, kinds, sources = zip(*rows, strict=True)
    return Seen(np.array(seen), np.array(truth), np.array(kinds), np.array(sources))


def fitted(seen: Seen, used: NDArray[np.bool_]) -> list[float]:
    """Return the weights of the shares, then the constant (2 K + 1,): ridge regression on the `used` rows."""
    rows = np.c_[seen.shares, np.ones(len(seen.truth))][used]
    penalty = RIDGE * np.diag([*np.ones(seen.shares.shape[1]), 0])
    weights = np.linalg.solve(rows.T @ rows + penalty, rows.T @ seen.truth[used])
    return [round(float(weight), 3) for weight in weights]


def errors(seen: Seen, rule: SizeRule) -> dict[str, str]:
    """Return, for each kind of picture, the errors by rules that never saw the source."""
    error = np.empty(len(seen.truth))
    for source in np.unique(seen.source):
        own = seen.source == source
        weights = fitted(seen, ~own)
        found = np.c_[seen.shares[own], np.ones(own.sum())] @ weights
        error[own] = np.where(found < rule.least, 0, found) - seen.truth[own]
    found_in = {kind: error[seen.kind == kind] for kind in np.unique(seen.kind)}
    return {str(kind): _described(each) for kind, each in found_in.items()}


def _described(error: Floats) -> str:
    wrong = f"{(np.abs(error) > WRONG).mean():.1%} beyond {WRONG}"
    return f"{len(error)} pictures, mean {error.mean():+.2f}, sd {error.std():.2f}, {wrong}"


if __name__ == "__main__":
    main()
