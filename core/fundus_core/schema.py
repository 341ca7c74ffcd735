"""Plain mappings (TOML, JSON) -> frozen dataclasses. An unknown key raises, with the nearest known one."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from fundus_core.errors import FundusError

T = TypeVar("T")
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a table"}


def build(cls: type[T], data: Mapping[str, Any], error: type[FundusError], where: str) -> T:
    """Return the dataclass `cls` built from `data`, nested dataclasses and tuples included.

    Raises:
        error: an unknown or missing key, or a value of the wrong type; `where` names the place.
    """
    if not isinstance(data, Mapping):
        raise error(f"{where}: expected keys with values, got {data!r}.")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise error(f"{where}: unknown key '{key}'.{nearest(key, fields)}")
    for name, field in fields.items():
        optional = (
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        )
        if name not in data and not optional:
            raise error(f"{where}: the key '{name}' is missing.")
    values = {key: _value(hints[key], value, error, f"{where}.{key}") for key, value in data.items()}
    try:
        return cls(**values)
    except FundusError as problem:  # what the dataclass itself refuses
        raise error(f"{where}: {problem}") from None


def check_least(owner: object, names: Iterable[str], least: int, error: type[FundusError]) -> None:
    """Refuse a number in a field of `owner` that is below `least`, infinite, or none.

    Raises:
        error: the field's name and value.
    """
    for name in names:
        value = getattr(owner, name)
        if not least <= value < math.inf:
            raise error(f"{name} is {value}; choose {least} or more.")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest of `known`, or a list of what there is."""
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), folded, n=1)
    return f" Did you mean '{folded[close[0]]}'?" if close else f" Known: {', '.join(folded.values())}."


def _value(hint: Any, value: Any, error: type[FundusError], where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(typing.cast(type, hint), value, error, where)
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list | tuple):
        item = typing.get_args(hint)[0]
        return tuple(_value(item, each, error, f"{where}[{i}]") for i, each in enumerate(value))
    if origin is typing.Literal and value in typing.get_args(hint):
        return value
    if origin is types.UnionType:
        return None if value is None else _value(typing.get_args(hint)[0], value, error, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is dict and isinstance(value, dict):
        return value
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    got = WORDS[dict] if isinstance(value, Mapping) else repr(value)
    raise error(f"{where}: expected {_wanted(hint)}, got {got}.")


def _wanted(hint: Any) -> str:
    origin = typing.get_origin(hint) or hint
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, typing.get_args(hint)))}"
    if origin is tuple:
        return f"a list, each item {_wanted(typing.get_args(hint)[0])}"
    if dataclasses.is_dataclass(origin):
        keys = ", ".join(field.name for field in dataclasses.fields(origin))
        return f"a table with keys of its own ({keys})"
    return WORDS.get(origin, str(hint))
