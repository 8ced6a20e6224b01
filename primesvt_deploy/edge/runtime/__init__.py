"""Classify images with a bundle: every bundle carries a copy of this folder.

Imports numpy and onnxruntime, Pillow when an image file is read or an image resized, and itself,
relatively; nothing else.
"""
