"""The artifact: an ONNX file, and the bundle around it."""
