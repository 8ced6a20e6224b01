"""The edge side: classify images with a bundle on numpy and onnxruntime alone.

Imports nothing but these and itself, relatively: every bundle carries a copy of this folder.
"""
