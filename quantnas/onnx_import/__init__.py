"""Import of third-party ONNX files as torch networks: operators, clean-up, pixel conventions."""
