"""Lowering to the program of the native engine, which adds weights only where spikes are."""
