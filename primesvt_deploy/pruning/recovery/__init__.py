"""Gradient-free recovery of a pruned model."""
