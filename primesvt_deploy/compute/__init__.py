"""Device, arithmetic and batch sizes of what torch computes."""
