"""The report as one HTML file that needs nothing else: no network, no font, no other file."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fundus_core.errors import MissingExtraError
from fundus_eval.report import formats, rows, words
from fundus_eval.report.checklist import GUIDELINES, SECTION_TITLES
from fundus_eval.report.figures import Picture, flow_picture, label_pictures
from fundus_eval.report.methods import METHODS
from fundus_eval.report.thumbnails import MOST
from fundus_eval.study import Case, LabelStudy, Study

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_CASES = 500  # rows of the table
_FOLDER = Path(__file__).parent
_FILTERS = {
    "number": formats.number,
    "count": formats.count,
    "measured": formats.measured,
    "estimate": formats.estimate,
    "limits": formats.limits,
    "percent": formats.percent,
    "share": formats.share,
    "share_limits": formats.share_limits,
    "units": words.units,
    "rule": words.rule_words,
    "measure": words.measure_words,
    "headline": words.headline,
    "folds_words": words.folds_words,
    "groupby_column": rows.by_column,
    "decision_rows": rows.decision_rows,
    "fold_rows": rows.fold_rows,
}


@dataclass(frozen=True)
class Section:
    """One label's part of the report; `prefix` starts the ids of its headings."""

    label: LabelStudy
    prefix: str
    pictures: dict[str, Picture]
    cases: tuple[Case, ...]
    thumbnails: tuple[tuple[Case, str], ...]  # with a data: URL each


def report_html(study: Study, title: str, thumbnails: Mapping[str, bytes]) -> str:
    """Return the report as one HTML file; the same study gives the same text.

    Args:
        study: what is reported.
        title: the heading.
        thumbnails: small JPEG or PNG files by image_id; the most wrong of them are shown.

    Raises:
        MissingExtraError: matplotlib or Jinja2 is not installed.
    """
    style, script = (_read(name) for name in ("report.css", "report.js"))
    sections = tuple(_section(label, place, thumbnails) for place, label in enumerate(study.labels, 1))
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            study=study,
            title=title,
            sections=sections,
            flow=flow_picture(study),
            doubts=words.doubts(study),
            few_images=words.FEW_IMAGES,
            macro=words.macro_words(study) if study.auc_macro else None,
            methods=METHODS,
            guidelines=GUIDELINES,
            titles=SECTION_TITLES,
            style=style,
            script=script,
            policy=_policy(style, script),
        )
    )


def _section(label: LabelStudy, place: int, thumbnails: Mapping[str, bytes]) -> Section:
    shown = [case for case in label.cases if case.image_id in thumbnails][:MOST]
    return Section(
        label=label,
        prefix=f"label-{place}",
        pictures=label_pictures(label, place),
        cases=label.cases[:MOST_CASES],
        thumbnails=tuple((case, _thumbnail_url(thumbnails[case.image_id])) for case in shown),
    )


def _environment() -> "Environment":
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise MissingExtraError("report", "jinja2") from None
    environment = Environment(
        autoescape=True,  # image ids, names of columns and the like are foreign texts
        finalize=_finalize,
        loader=FileSystemLoader(_FOLDER),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= _FILTERS | {"picture_url": _picture_url}
    return environment


def _finalize(value: Any) -> Any:
    """Make every text that is no markup printable, wherever the template writes one."""
    return formats.printable(value) if type(value) is str else value


def _policy(style: str, script: str) -> str:
    """Return a Content-Security-Policy under which only this style and script work, and nothing loads."""
    allowed = "; ".join(
        f"{kind}-src '{_digest(text)}'" for kind, text in (("style", style), ("script", script))
    )
    return f"default-src 'none'; img-src data:; {allowed}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _picture_url(picture: Picture) -> str:
    return _data_url("image/svg+xml", picture.svg())


def _thumbnail_url(content: bytes) -> str:
    return _data_url("image/png" if content.startswith(b"\x89PNG") else "image/jpeg", content)


def _data_url(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
