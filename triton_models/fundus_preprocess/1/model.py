"""Answers `image` with `pixels` and more; the code is shared with training."""

from fundus_core.backend import PreprocessModel as TritonPythonModel
