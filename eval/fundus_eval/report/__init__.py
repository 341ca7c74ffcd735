"""The report of an evaluation: one HTML file, its figures, its numbers."""

from fundus_eval.report.document import report_html
from fundus_eval.report.figures import write_figures
from fundus_eval.report.values import study_json

__all__ = ["report_html", "study_json", "write_figures"]
