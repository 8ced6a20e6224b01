"""Accuracy and latency of artifacts in ONNX Runtime."""
