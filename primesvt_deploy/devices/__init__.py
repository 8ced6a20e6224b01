"""Other machines to measure on: over SSH, or emulated."""
