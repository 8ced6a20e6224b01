"""Whether an artifact computes what its model computes."""
