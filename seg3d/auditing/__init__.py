"""Comparing runs: where two part, how far many spread, and what of a difference is chance."""
