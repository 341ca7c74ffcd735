"""Turn a training run into a Triton model repository: checkpoints -> ONNX graphs -> configs -> manifest."""
