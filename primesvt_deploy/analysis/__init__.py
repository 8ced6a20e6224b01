"""What can leave a model, what it weighs, and what its absence costs."""
