from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from fundus_core.errors import FundusError, RecipeError
from fundus_core.schema import build, nearest


class PlaceError(FundusError):
    pass


@dataclass(frozen=True)
class Inner:
    size_px: int
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.size_px < 0:
            raise RecipeError("size_px is negative.")


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    several: tuple[Inner, ...] = ()
    numbers: tuple[float, ...] = ()
    perhaps: float | None = None
    kind: Literal["a", "b"] = "a"
    switch: bool = False
    free: dict[str, Any] = field(default_factory=dict)


SMALLEST = {"name": "x", "inner": {"size_px": 1}}


def made(**values: Any) -> Outer:
    return build(Outer, SMALLEST | values, PlaceError, "file")


def test_nested_values_become_nested_dataclasses() -> None:
    full = made(several=[{"size_px": 2, "share": 1}, {"size_px": 3}], numbers=[1, 2.5], free={"a": [1]})
    assert full == Outer("x", Inner(1), (Inner(2, 1.0), Inner(3)), (1.0, 2.5), free={"a": [1]})


def test_a_whole_number_becomes_a_float_where_a_float_is_meant() -> None:
    assert isinstance(made(inner={"size_px": 1, "share": 1}).inner.share, float)


@pytest.mark.parametrize(("value", "expected"), [(None, None), (2, 2.0)])
def test_an_optional_value_may_be_nothing(value: float | None, expected: float | None) -> None:
    assert made(perhaps=value).perhaps == expected


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"nmae": "y"}, "file: unknown key 'nmae'. Did you mean 'name'?"),
        ({"inner": {"size_px": 1, "sahre": 1}}, "file.inner: unknown key 'sahre'. Did you mean 'share'?"),
        ({"zzz": 1}, "file: unknown key 'zzz'. Known: name, inner, several"),
        ({"inner": {}}, "file.inner: the key 'size_px' is missing."),
        ({"inner": 3}, "file.inner: expected a table with keys of its own (size_px, share), got 3."),
        ({"inner": {"size_px": 1.5}}, "file.inner.size_px: expected a whole number, got 1.5."),
        ({"inner": {"size_px": True}}, "file.inner.size_px: expected a whole number, got True."),
        ({"inner": {"size_px": -1}}, "file.inner: size_px is negative."),
        ({"several": [{"size_px": 1}, {}]}, "file.several[1]: the key 'size_px' is missing."),
        (
            {"several": {"size_px": 1}},
            "file.several: expected a list, each item a table with keys of its own (size_px, share), got a",
        ),
        ({"numbers": 1.0}, "file.numbers: expected a list, each item a number, got 1.0."),
        ({"numbers": [1.0, "2"]}, "file.numbers[1]: expected a number, got '2'."),
        ({"perhaps": "1"}, "file.perhaps: expected a number, got '1'."),
        ({"perhaps": {"value": 1}}, "file.perhaps: expected a number, got a table."),
        ({"kind": "c"}, "file.kind: expected one of 'a', 'b', got 'c'."),
        ({"kind": ["a"]}, "file.kind: expected one of 'a', 'b', got ['a']."),
        ({"switch": 1}, "file.switch: expected true or false, got 1."),
        ({"name": None}, "file.name: expected text, got None."),
        ({"free": [1]}, "file.free: expected a table, got [1]."),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlaceError) as caught:
        made(**values)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("data", [None, 3, "name", ["name"]])
def test_what_is_no_mapping_is_refused(data: Any) -> None:
    with pytest.raises(PlaceError, match="file: expected keys with values"):
        build(Outer, data, PlaceError, "file")


def test_the_nearest_word_is_suggested_or_all_are_listed() -> None:
    assert nearest("epoch", ["epochs", "folds"]) == " Did you mean 'epochs'?"
    assert nearest("zzz", ["epochs", "folds"]) == " Known: epochs, folds."
