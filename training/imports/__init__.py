"""Making versions out of what others trained: checkpoints of torch, and networks in ONNX."""
