"""Verification: whether an artifact computes what its model computes."""
