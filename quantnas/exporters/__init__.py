"""Export to ONNX, QONNX and TFLite files, and the checks that a file equals its network."""
