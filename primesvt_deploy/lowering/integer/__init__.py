"""Lowering to integer arithmetic wherever tensors hold spike counts."""
