"""The training of reference models; see `tools/train_reference.py`."""
