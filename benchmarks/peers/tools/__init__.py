"""What does it: one adapter per tool, with a function per subject that it can take part in."""
