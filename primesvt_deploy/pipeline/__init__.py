"""What the commands do, in order."""
