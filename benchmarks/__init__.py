"""Side by side with what people use today; one command, one table."""
