"""Analysis of a model: prunable groups, channel importance, size, operations, energy, firing."""
