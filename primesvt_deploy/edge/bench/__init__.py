"""Measure bundles on the machine that this runs on, with numpy and the runtimes alone.

Imports nothing but these, `errors` and `runtime`: `bench --host` copies it to a device as it is.
"""
