"""The exported artifact: an ONNX file, its ORT-format form, and the runtime versions they need."""
