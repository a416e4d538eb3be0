"""A third party's ONNX file becomes a torch network: operators, clean-up, pixel conventions."""
