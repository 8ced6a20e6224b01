"""Weights of a lowered SViT on integer grids, so that spikes times weights is exact."""
