"""How reference models are trained, see `tools/train_reference.py`."""
