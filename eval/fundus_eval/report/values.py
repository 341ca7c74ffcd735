"""A study as plain values, for JSON."""

import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from fundus_eval.report.formats import printable
from fundus_eval.study import Case, Shift, Study


def study_json(study: Study) -> dict[str, Any]:
    """Return every number of the report as plain values; one that is not finite becomes None.

    The keys are the fields of `fundus_eval.study.Study`; a case has its `error` too, a shift its `shifted`.
    """
    plain: dict[str, Any] = _plain(study)
    return plain


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        derived = {Case: ("error",), Shift: ("shifted",)}.get(type(value), ())
        names = (*(field.name for field in fields(value)), *derived)
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {printable(str(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else printable(str(value))
