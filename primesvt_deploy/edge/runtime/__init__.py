"""Classify images with a bundle: every bundle carries a copy of this folder.

Imports numpy; onnxruntime, or a library that it compiles itself, when a model is opened; Pillow
when an image file is read or an image resized; and itself, relatively; nothing else.
"""
