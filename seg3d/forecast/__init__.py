"""What a study will cost, before anything of it runs."""
