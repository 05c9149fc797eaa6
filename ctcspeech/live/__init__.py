"""Speech as it comes: a recogniser of streams."""
