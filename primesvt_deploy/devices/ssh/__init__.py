"""Measure on another machine over SSH: copy, run, follow, fetch, clean up."""
