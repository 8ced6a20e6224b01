"""Blocks that the families share."""
