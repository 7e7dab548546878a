"""What is compared: one module per subject."""
