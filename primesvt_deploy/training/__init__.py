"""Fine-tuning of pruned models."""
