"""Measure bundles on the machine that this runs on, with numpy and onnxruntime alone.

Imports nothing but these, `errors` and `runtime`: `bench --host` copies it to a device as it is.
"""
