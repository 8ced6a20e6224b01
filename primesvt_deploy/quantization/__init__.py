"""Quantization: weights of a lowered SViT on integer grids, where spikes times weights is exact."""
