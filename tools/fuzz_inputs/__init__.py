"""Fuzz everything that reads a file of others; see README.md."""
