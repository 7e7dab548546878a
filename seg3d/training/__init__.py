"""Training: Lightning module and data module, trace, checkpoints, tracking, environment."""
