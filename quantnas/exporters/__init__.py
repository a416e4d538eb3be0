"""Files for devices: ONNX, QONNX and TFLite, and the checks that they equal the network."""
