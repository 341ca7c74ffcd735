"""Answers as the ensemble, with no more folds than a decision takes."""

from fundus_core.backend import AdaptiveModel as TritonPythonModel
