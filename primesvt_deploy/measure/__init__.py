"""Accuracy, latency and memory of artifacts in ONNX Runtime."""
