"""Runs model.onnx in a server that has no onnxruntime backend (configs/embedded.pbtxt)."""

from fundus_core.backend import OnnxModel as TritonPythonModel
